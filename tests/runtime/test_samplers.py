"""Tests of the samplers: valid rows, frequencies, importance-sampling weights and speed."""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import frame_codec, latent_codec
from seer_runtime.replay.replay import NothingToSampleError, Replay
from seer_runtime.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from tests.runtime.frequencies import assert_frequencies
from tests.runtime.naive_replay import hash_encoder, ledger_of

FRAME = np.zeros((1, 4), np.uint8)


def _replay(capacity: int, *, prioritized: bool = False, n: int = 1, batch: int = 8, stack: int = 1) -> Replay:
    ledger = ledger_of(4 * capacity)
    store = RowStore(FixedRows(Arena(4 * capacity, ledger), frame_codec((1, 4))), stack=stack, ledger=ledger)
    sampler: Sampler = PrioritizedSampler(store, ledger) if prioritized else UniformSampler(store)
    rng = np.random.default_rng(7)
    return Replay(store, sampler, batch_size=batch, n_step=n, gamma=0.9, rng=rng, ledger=ledger)


def _fill(replay: Replay, steps: int, ending: str = "running") -> None:
    """One episode of `steps` steps: terminated, truncated or running."""
    for step in range(steps):
        last = step == steps - 1
        replay.append(
            FRAME, 0, 1.0, terminated=last and ending == "terminated", truncated=last and ending == "truncated"
        )
    if ending == "truncated":
        replay.append_final(FRAME)


def _counts(ids: NDArray[np.int64], rows: list[int]) -> NDArray[np.int64]:
    """Return how often each of `rows` was drawn. Fail if another row was drawn."""
    assert set(ids.tolist()) == set(rows)
    return np.array([np.count_nonzero(ids == row) for row in rows])


@pytest.mark.parametrize("prioritized", [False, True])
def test_only_valid_rows_are_drawn_and_equally_often(prioritized: bool) -> None:
    replay = _replay(40, prioritized=prioritized, n=3, stack=3)
    _fill(replay, 20, "terminated")  # rows 0 to 19
    _fill(replay, 10, "truncated")  # rows 20 to 29, the final frame in row 30
    _fill(replay, 15)  # rows 31 to 45; the ring holds 6 to 45
    # Rows 6 and 7 lack frames of their stacks, row 30 has no action, and the newest three have no third step.
    valid = [*range(8, 30), *range(31, 43)]
    counts = _counts(replay.draw(20_000), valid)
    assert_frequencies(counts, np.full(len(valid), 1 / len(valid)))


def test_prioritized_frequencies_are_proportional_to_the_priorities_of_valid_rows() -> None:
    replay = _replay(30, prioritized=True, n=2)
    _fill(replay, 32)  # the ring holds rows 2 to 31
    ids = np.arange(2, 32)
    priorities = np.random.default_rng(3).uniform(0.1, 9.0, 30).astype(np.float32)
    replay.update_priorities(ids, priorities)
    valid = list(range(2, 30))
    wanted = priorities[:28].astype(np.float64) ** 0.5
    # Use batches of 4, so that the strata are wide and many rejected rows are drawn again.
    counts = _counts(np.concatenate([replay.draw(4) for _ in range(8_000)]), valid)
    expected = counts.sum() * wanted / wanted.sum()
    np.testing.assert_allclose(counts, expected, rtol=0.15)
    assert_frequencies(counts, wanted / wanted.sum())


def test_proposals_are_stratified() -> None:
    replay = _replay(64, prioritized=True)
    _fill(replay, 64)
    priorities = np.random.default_rng(5).uniform(0.1, 4.0, 64).astype(np.float32)
    replay.update_priorities(np.arange(64), priorities)
    upper = np.cumsum(priorities.astype(np.float64) ** 0.5)
    lower, part = upper - priorities.astype(np.float64) ** 0.5, upper[-1] / 16
    rng = np.random.default_rng(1)
    for _ in range(50):
        ids = replay.sampler.propose(rng, 16)
        for index, row in enumerate(ids.tolist()):
            assert lower[row] < (index + 1) * part
            assert upper[row] > index * part


@pytest.mark.parametrize(("progress", "beta"), [(0.0, 0.4), (0.5, 0.7), (1.0, 1.0), (-3.0, 0.4), (7.0, 1.0)])
def test_weights_match_the_closed_form(progress: float, beta: float) -> None:
    replay = _replay(50, prioritized=True)
    _fill(replay, 73)
    held = np.arange(23, 73)
    raw = np.random.default_rng(3).uniform(0.01, 9.0, 50).astype(np.float32)
    replay.update_priorities(held, raw)
    probability = raw.astype(np.float64) ** 0.5 / (raw.astype(np.float64) ** 0.5).sum()
    ids = replay.draw(20)
    wanted = (50 * probability[ids - 23]) ** -beta
    weights = replay.sampler.weights(ids, progress)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, wanted / wanted.max(), rtol=1e-5)
    assert weights.max() == 1.0


def test_batch_contains_the_weights_of_its_rows() -> None:
    replay = _replay(20, prioritized=True)
    _fill(replay, 20)
    replay.update_priorities(np.arange(20), np.linspace(1, 5, 20, dtype=np.float32))
    batch = replay.sample(progress=0.3)
    np.testing.assert_array_equal(batch.weights, replay.sampler.weights(batch.row_ids, 0.3))
    assert len(set(batch.weights.tolist())) > 1


def test_uniform_weights_are_one() -> None:
    replay = _replay(20)
    _fill(replay, 20)
    assert replay.sample(0.5).weights.tolist() == [1.0] * 8


def test_new_row_gets_the_largest_priority_so_far() -> None:
    replay = _replay(10, prioritized=True)
    _fill(replay, 3)
    assert replay.sampler.priorities(np.arange(3)).tolist() == [1.0, 1.0, 1.0]
    replay.update_priorities(np.array([0, 1]), np.array([16.0, 9.0], np.float32))
    replay.update_priorities(np.array([0]), np.array([0.25], np.float32))
    _fill(replay, 1)
    assert replay.sampler.priorities(np.arange(4)).tolist() == [0.5, 3.0, 1.0, 4.0]


def test_update_of_an_overwritten_row_is_ignored() -> None:
    replay = _replay(10, prioritized=True)
    _fill(replay, 10)
    old = np.array([0, 1, 2, 5])
    _fill(replay, 3)  # rows 10, 11 and 12 overwrite rows 0, 1 and 2
    replay.update_priorities(old, np.array([100.0, 100.0, 100.0, 4.0], np.float32))
    assert replay.sampler.priorities(np.arange(10, 13)).tolist() == [1.0, 1.0, 1.0]
    assert replay.sampler.priorities(np.array([5])).tolist() == [2.0]
    _fill(replay, 1)
    assert replay.sampler.priorities(np.array([13])).tolist() == [2.0]  # not 100, which no row in the store has
    replay.update_priorities(old[:3], np.array([7.0, 7.0, 7.0], np.float32))  # all overwritten
    assert replay.sampler.priorities(np.arange(4, 14)).tolist() == [1.0, 2.0, *[1.0] * 7, 2.0]


@pytest.mark.parametrize(("name", "width"), [("float16", 1), ("float32", 1), ("float32", 3)])
def test_priorities_and_late_updates_follow_the_row_ids_through_the_conversion(name: str, width: int) -> None:
    replay = _replay(30, prioritized=True, stack=3)
    _fill(replay, 47)  # the ring holds rows 17 to 46; 17 and 18 lack frames of their stacks
    replay.update_priorities(np.arange(17, 47), np.arange(17, 47, dtype=np.float32) ** 2)
    sampled = np.arange(17, 47)  # ids that a batch from before the conversion could contain
    kept = replay.convert(latent_codec(name, (width,)), hash_encoder(width))
    first = 47 - kept
    assert kept == min(28, replay.store.capacity)
    np.testing.assert_allclose(replay.sampler.priorities(np.arange(first, 47)), np.arange(first, 47))
    replay.update_priorities(sampled, np.full(30, 1e4, np.float32))
    assert replay.sampler.priorities(np.arange(first, 47)).tolist() == [100.0] * kept
    total = replay.sampler.priorities(replay.store.oldest + np.arange(replay.store.capacity)).sum()
    assert total == 100.0 * kept  # the tree contains no dropped row
    replay.append(np.zeros((1, width), np.float32), 0, 1.0, terminated=True, truncated=False)
    assert replay.sampler.priorities(np.array([47])).tolist() == [100.0]
    assert set(replay.draw(400).tolist()) <= set(range(replay.store.oldest, 48))


def test_final_row_is_never_sampled() -> None:
    replay = _replay(12, prioritized=True)
    _fill(replay, 4, "truncated")  # the final frame is row 4
    _fill(replay, 3)
    replay.interrupt(FRAME)  # row 8
    assert replay.sampler.priorities(np.array([4, 8])).tolist() == [0.0, 0.0]
    assert set(replay.draw(2000).tolist()) == {0, 1, 2, 3, 5, 6, 7}
    _fill(replay, 20)
    assert replay.sampler.priorities(np.array([20])).tolist() == [1.0]  # the slot of row 8 now holds a normal row


@pytest.mark.parametrize("prioritized", [False, True])
def test_sample_raises_if_no_window_exists(prioritized: bool) -> None:
    replay = _replay(100, prioritized=prioritized, n=5)
    with pytest.raises(NothingToSampleError, match="the replay is empty"):
        replay.sample()
    _fill(replay, 5)
    with pytest.raises(NothingToSampleError, match="no window of 5 steps among 5 rows"):
        replay.sample()
    _fill(replay, 1)
    assert set(replay.sample().row_ids.tolist()) == {0}


def test_sample_raises_if_all_rows_are_final() -> None:
    replay = _replay(1, prioritized=True)
    _fill(replay, 1, "truncated")
    with pytest.raises(NothingToSampleError):
        replay.sample()


@pytest.mark.parametrize("prioritized", [False, True])
def test_single_valid_row_among_many_is_found(prioritized: bool) -> None:
    replay = _replay(1_500, prioritized=prioritized, n=1_499)
    _unending_episode(replay, 1_500)
    assert replay.draw(5).tolist() == [0] * 5


def test_scan_of_all_rows_keeps_the_proportions() -> None:
    replay = _replay(300, prioritized=True, n=298)
    _unending_episode(replay, 300)
    replay.update_priorities(np.array([0, 1]), np.array([9.0, 1.0], np.float32))
    replay.update_priorities(np.arange(2, 300), np.full(298, 1e12, np.float32))
    counts = _counts(replay.draw(2_000), [0, 1])
    assert_frequencies(counts, np.array([0.75, 0.25]))


def _unending_episode(replay: Replay, rows: int) -> None:
    """Set the state that `rows` calls of `append` would leave. A million calls would take too long."""
    store = replay.store
    assert rows <= store.capacity
    store.columns.age[:rows] = np.minimum(np.arange(rows), 255)
    store.appended = store.rows = rows
    ids = np.arange(rows)
    replay.sampler.rebuild(ids, np.random.default_rng(0).uniform(0.5, 1.5, rows))


def _median_ratio(small: Callable[[], object], large: Callable[[], object]) -> float:
    """Return the time of `large` over the time of `small`: medians of interleaved runs, the best of five attempts.

    A busy machine can make one attempt worse, but hardly better.
    """
    ratios = []
    for _ in range(5):
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(150):
            for times, draw in zip(seconds, (small, large), strict=True):
                begin = time.perf_counter()
                draw()
                times.append(time.perf_counter() - begin)
        ratios.append(statistics.median(seconds[1]) / statistics.median(seconds[0]))
    return min(ratios)


@pytest.mark.parametrize(("prioritized", "limit"), [(False, 1.5), (True, 1.6)])
def test_draw_time_hardly_depends_on_the_number_of_rows(prioritized: bool, limit: float) -> None:
    replays = []
    for rows in (10_000, 1_000_000):
        replay = _replay(rows, prioritized=prioritized, n=20, batch=32)
        _unending_episode(replay, rows)
        replays.append(replay)
    ratio = _median_ratio(lambda: replays[0].draw(32), lambda: replays[1].draw(32))
    print(f"draw of 32 from 1,000,000 rows over 10,000 rows: {ratio:.2f}x")
    assert ratio <= limit
