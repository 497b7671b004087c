"""Fill the stores of `stores.py` with the same steps, compare their batches, and time them."""

import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stores import BATCH, GAMMA, N_STEP, WARM_UP_BATCHES, Store, play

from seer_edge.envs import Environment, Frame
from seer_runtime.onnx.encoder import MAX_BATCH, OnnxEncoder
from seer_runtime.policy.policy import Policy
from seer_runtime.replay.replay import NothingToSampleError
from seer_runtime.replay.windows import n_step_windows


class DifferentBatchError(Exception):
    """Two stores gave different observations for the same rows."""


def fill(stores: Sequence[Store], env: Environment, rows: int, seed: int, policy: Policy | None = None) -> None:
    """Append the same `rows` time steps, played by `policy` or at random, to every store."""
    for row in itertools.islice(play(env, seed, policy), rows):
        for store in stores:
            store.append(row)


def can_sample(store: Store) -> bool:
    """Return whether the store holds at least one window."""
    try:
        store.sample()
    except NothingToSampleError:
        return False
    return True


def sampling_seconds(stores: Sequence[Store], batches: int) -> list[float]:
    """Return the median time of a batch for each store. Rounds are interleaved, so all see the same disturbances."""
    seconds: list[list[float]] = [[] for _ in stores]
    for _ in range(WARM_UP_BATCHES + batches):
        for store, times in zip(stores, seconds, strict=True):
            begin = time.perf_counter()
            store.sample()
            times.append(time.perf_counter() - begin)
    return [statistics.median(times[WARM_UP_BATCHES:]) for times in seconds]


def check_batches(stores: Sequence[Store], encoder: OnnxEncoder, seed: int) -> int:
    """Compare one batch of rows that all `stores` hold; return its size. The first store must hold stacks.

    Raises DifferentBatchError unless windows and frames are equal, and latents equal the encoder's up to the codec's
    rounding.
    """
    newest = min(store.rows.appended for store in stores)
    ids = np.arange(max(store.rows.oldest for store in stores), newest)
    for store in stores:
        ids = ids[n_step_windows(store.rows, ids, N_STEP, GAMMA).valid]
    if len(ids) == 0:
        raise DifferentBatchError("no window is in all stores")
    ids = np.random.default_rng(seed).choice(ids, min(BATCH, len(ids)), replace=False)
    reference = stores[0]
    windows = n_step_windows(reference.rows, ids, N_STEP, GAMMA)
    stacks = [half.copy() for half in reference.fetch(ids, windows.bootstrap_ids)]
    for store in stores[1:]:
        others = n_step_windows(store.rows, ids, N_STEP, GAMMA)
        for name in ("bootstrap_ids", "returns", "discounts"):
            if not np.array_equal(getattr(windows, name), getattr(others, name)):
                raise DifferentBatchError(f"{store.name}: {name} differ from {reference.name}")
        for got, expected in zip(store.fetch(ids, others.bootstrap_ids), stacks, strict=True):
            if got.dtype == np.uint8 and not np.array_equal(got, expected):
                raise DifferentBatchError(f"{store.name}: frames differ from {reference.name}")
            if got.dtype != np.uint8:
                _check_latents(store, got, _encode(encoder, expected))
    return len(ids)


def _encode(encoder: OnnxEncoder, stacks: Frame) -> NDArray[np.float32]:
    """Return the latents `[B, N, L]` of any number of stacks."""
    begins = range(0, len(stacks), MAX_BATCH)
    return np.concatenate([encoder(stacks[begin : begin + MAX_BATCH]).copy() for begin in begins])


def _check_latents(store: Store, got: NDArray[Any], latents: NDArray[np.float32]) -> None:
    codec = store.rows.codec
    rows = np.zeros((len(latents), codec.row_bytes), np.uint8)
    rounded = np.empty_like(got)
    codec.encode(latents[:, None], rows)
    codec.gather(rows, np.arange(len(rows))[:, None], codec.plain(len(rows)), rounded[:, None])
    # ONNX Runtime's sums may depend on the batch size, which the conversion chooses.
    allowed = float(np.abs(rounded - latents).max()) + 1e-5 * max(1.0, float(np.abs(latents).max()))
    difference = float(np.abs(got - latents).max())
    if not difference <= allowed:
        raise DifferentBatchError(
            f"{store.name}: latents differ by {difference:.3g} from the encoder's, allowed {allowed:.3g}"
        )
