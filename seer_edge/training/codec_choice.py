"""`--latent-codec auto`: choose the densest codec that hardly changes the head's outputs on real rows (decision 9)."""

import math

import numpy as np

from seer_edge.config.plan import BytePlan
from seer_edge.training.replay_rows import Floats, encoded, output_errors, outputs_of, real_rows, without_blank_frames
from seer_edge.training.session import Session
from seer_runtime.replay.codecs import Codec, latent_codec
from seer_runtime.replay.storage import Ids

CALIBRATION_ROWS = 1_024
"""With 256 rows, three to five times as many later values would be clipped (decision 9)."""
OUTPUT_ERROR_BOUND = 0.02
"""Largest accepted mean error of the head's outputs, in standard deviations of each over the rows (decision 9)."""


def choose_codec(session: Session) -> tuple[BytePlan, dict[str, float]]:
    """Return the plan with the chosen codec, and the error of each codec that was tried, the densest first.

    Without rows to measure on, the choice is float32, which needs no trial. Changes nothing in the session and draws
    no random numbers.
    """
    calibrating, held_out = trial_rows(session)
    exact = outputs_of(session.agent, encoded(session.agent, session.replay, held_out))
    errors: dict[str, float] = {}
    widest, *denser = session.plan.choices
    for plan in reversed(denser):
        if not plan.latent_replay:
            continue
        error = _error(session, plan.config.latent_codec, calibrating, held_out, exact)
        if error is None:
            continue
        errors[plan.config.latent_codec] = error
        if error <= OUTPUT_ERROR_BOUND:
            return plan, errors
    return widest, errors


def trial_rows(session: Session) -> tuple[Ids, Ids]:
    """Return rows to calibrate on, chosen as the freeze chooses them, and the rows between them to measure on."""
    ids = real_rows(session.replay, 2 * CALIBRATION_ROWS)
    return without_blank_frames(session.replay, ids[::2]), ids[1::2]


def through(codec: Codec, latents: Floats) -> Floats:
    """Return latents `[B, N, L]` as they come back from rows of a `codec` with K = 1."""
    rows, out = np.zeros((len(latents), codec.row_bytes), np.uint8), np.zeros_like(latents)
    codec.encode(latents[:, None], rows)
    codec.gather(rows, np.arange(len(rows))[:, None], codec.plain(len(rows)), out[:, None])
    return out


def _error(session: Session, name: str, calibrating: Ids, held_out: Ids, exact: Floats) -> float | None:
    """Return the codec's mean error; None if there are no rows, the codec cannot store them, or it is infinite.

    It is infinite if an output is equal for all rows, for example because there is one row only.
    """
    if not len(held_out):
        return None
    codec = latent_codec(name, session.plan.encoder.latent_shape, 1, session.ledger)
    try:
        codec.calibrate(encoded(session.agent, session.replay, calibrating))
        with np.errstate(over="ignore"):
            got = outputs_of(
                session.agent, (through(codec, each) for each in encoded(session.agent, session.replay, held_out))
            )
    except ValueError:
        return None
    finally:
        codec.release()
    error = float(output_errors(got, exact).mean())
    return error if math.isfinite(error) else None
