"""`--latent-codec auto`: the densest codec that hardly changes what the head makes of real rows (decision 9)."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.loop import Session
from seer_edge.plan import BytePlan
from seer_runtime.codecs import Codec, latent_codec
from seer_runtime.encoder import MAX_BATCH
from seer_runtime.store import Ids

Floats = NDArray[np.float32]

OUTPUT_ERROR_BOUND = 0.02
"""Mean error of the head's outputs, in standard deviations of each over the rows."""


def choose_codec(session: Session, calibrating: Ids, held_out: Ids) -> tuple[BytePlan, dict[str, float]]:
    """The plan with the codec that was chosen, and the error of each that was tried, the densest first.

    Grids are laid over the rows `calibrating`, and errors are of the rows `held_out`; without rows it is float32, which
    needs no trial. Nothing of the session changes and nothing is drawn.
    """
    exact = _outputs(session, _latents(session, held_out))
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


def output_errors(got: Floats, exact: Floats) -> NDArray[np.float64]:
    """How far outputs `[B, M]` are from the exact ones, in standard deviations of each output over the rows."""
    difference, spread = np.abs(got.astype(np.float64) - exact), exact.std(axis=0, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.divide(difference, spread, out=difference, where=difference > 0)


def through(codec: Codec, latents: Floats) -> Floats:
    """What is left of latents `[B, N, L]` after a row of a `codec` with K = 1."""
    rows, out = np.zeros((len(latents), codec.row_bytes), np.uint8), np.zeros_like(latents)
    codec.encode(latents[:, None], rows)
    codec.gather(rows, np.arange(len(rows))[:, None], codec.plain(len(rows)), out[:, None])
    return out


def _error(session: Session, name: str, calibrating: Ids, held_out: Ids, exact: Floats) -> float | None:
    """None where there are no rows, or the codec cannot store them."""
    if not len(held_out):
        return None
    codec = latent_codec(name, session.plan.encoder.latent_shape, 1, session.ledger)
    try:
        codec.calibrate(_latents(session, calibrating))
        with np.errstate(over="ignore"):
            got = _outputs(session, (through(codec, latents) for latents in _latents(session, held_out)))
    except ValueError:
        return None
    finally:
        codec.release()
    return float(output_errors(got, exact).mean())


def _latents(session: Session, ids: Ids) -> Iterator[Floats]:
    """Slices `[b, N, L]`."""
    for stacks in session.replay.observations(ids).slices(at_most=MAX_BATCH):
        yield session.agent.encode(stacks).cpu().numpy()


def _outputs(session: Session, latents: Iterable[Floats]) -> Floats:
    """`[B, M]`."""
    device = session.agent.device
    with torch.no_grad():
        pieces = [session.agent.outputs(torch.from_numpy(piece).to(device)).cpu().numpy() for piece in latents]
    return np.concatenate(pieces) if pieces else np.zeros((0, 1), np.float32)
