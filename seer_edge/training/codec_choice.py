"""`--latent-codec auto`: choose the densest codec that hardly changes the head's outputs on real rows (decision 9)."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan
from seer_edge.training.session import Session
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.replay.codecs import Codec, latent_codec
from seer_runtime.replay.storage import Ids

Floats = NDArray[np.float32]

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
    exact = _outputs(session, encoded(session, held_out))
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


def real_rows(session: Session, count: int) -> Ids:
    """Return the ids of about `count` evenly spaced rows of a replay of frames whose stacks are complete."""
    store = session.replay.store
    ids = np.unique(np.linspace(store.oldest, store.appended - 1, count).astype(np.int64))
    return ids[store.stack_is_whole(ids)]


def without_blank_frames(session: Session, ids: Ids) -> Ids:
    """Return those of `ids` whose stacks hold no blank frame."""
    store = session.replay.store
    return ids[store.columns.age[store.slots(ids)] >= store.stack - 1]


def trial_rows(session: Session) -> tuple[Ids, Ids]:
    """Return rows to calibrate on, chosen as the freeze chooses them, and the rows between them to measure on."""
    ids = real_rows(session, 2 * CALIBRATION_ROWS)
    return without_blank_frames(session, ids[::2]), ids[1::2]


def encoded(session: Session, ids: Ids) -> Iterator[Floats]:
    """Yield latents `[b, N, L]` of the rows `ids` of a replay of frames, slice by slice."""
    for stacks in session.replay.observations(ids).slices(at_most=MAX_BATCH):
        yield session.agent.encode(stacks).cpu().numpy()


def output_errors(got: Floats, exact: Floats) -> NDArray[np.float64]:
    """Return the distance of outputs `[B, M]` from the exact ones, in standard deviations of each output over rows."""
    difference, spread = np.abs(got.astype(np.float64) - exact), exact.std(axis=0, dtype=np.float64)
    with np.errstate(divide="ignore"):
        np.divide(difference, spread, out=difference, where=difference > 0)
    return difference


def through(codec: Codec, latents: Floats) -> Floats:
    """Return latents `[B, N, L]` as they come back from rows of a `codec` with K = 1."""
    rows, out = np.zeros((len(latents), codec.row_bytes), np.uint8), np.zeros_like(latents)
    codec.encode(latents[:, None], rows)
    codec.gather(rows, np.arange(len(rows))[:, None], codec.plain(len(rows)), out[:, None])
    return out


def _error(session: Session, name: str, calibrating: Ids, held_out: Ids, exact: Floats) -> float | None:
    """Return the codec's mean error, or None if there are no rows or the codec cannot store their latents."""
    if not len(held_out):
        return None
    codec = latent_codec(name, session.plan.encoder.latent_shape, 1, session.ledger)
    try:
        codec.calibrate(encoded(session, calibrating))
        with np.errstate(over="ignore"):
            got = _outputs(session, (through(codec, latents) for latents in encoded(session, held_out)))
    except ValueError:
        return None
    finally:
        codec.release()
    return float(output_errors(got, exact).mean())


def _outputs(session: Session, latents: Iterable[Floats]) -> Floats:
    """Return the head's outputs `[B, M]`."""
    device = session.agent.device
    with torch.no_grad():
        pieces = [session.agent.outputs(torch.from_numpy(piece).to(device)).cpu().numpy() for piece in latents]
    return np.concatenate(pieces) if pieces else np.zeros((0, 1), np.float32)
