"""Rows of a replay of frames, and what the encoder and the head make of them. Nothing draws random numbers."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.agents.agent import Agent
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.replay.replay import Replay
from seer_runtime.replay.storage import Ids

Floats = NDArray[np.float32]


def real_rows(replay: Replay, count: int) -> Ids:
    """Return the ids of about `count` evenly spaced rows of a replay of frames whose stacks are complete."""
    store = replay.store
    ids = np.unique(np.linspace(store.oldest, store.appended - 1, count).astype(np.int64))
    return ids[store.stack_is_whole(ids)]


def without_blank_frames(replay: Replay, ids: Ids) -> Ids:
    """Return those of `ids` whose stacks hold no blank frame."""
    store = replay.store
    return ids[store.columns.age[store.slots(ids)] >= store.stack - 1]


def encoded(agent: Agent, replay: Replay, ids: Ids) -> Iterator[Floats]:
    """Yield latents `[b, N, L]` of the rows `ids` of a replay of frames, slice by slice."""
    for stacks in replay.observations(ids).slices(at_most=MAX_BATCH):
        yield agent.encode(stacks).cpu().numpy()


def outputs_of(agent: Agent, latents: Iterable[Floats]) -> Floats:
    """Return the head's outputs `[B, M]` for slices of latents `[b, N, L]`."""
    with torch.no_grad():
        pieces = [agent.outputs(torch.from_numpy(piece).to(agent.device)).cpu().numpy() for piece in latents]
    return np.concatenate(pieces) if pieces else np.zeros((0, 1), np.float32)


def output_errors(got: Floats, exact: Floats) -> NDArray[np.float64]:
    """Return the distance of outputs `[B, M]` from the exact ones, in standard deviations of each output over rows."""
    difference, spread = np.abs(got.astype(np.float64) - exact), exact.std(axis=0, dtype=np.float64)
    with np.errstate(divide="ignore"):
        np.divide(difference, spread, out=difference, where=difference > 0)
    return difference
