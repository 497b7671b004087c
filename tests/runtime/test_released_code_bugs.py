"""Regression tests: one for each replay bug in the paper's released code and in similar projects."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import Codec, frame_codec, latent_codec
from seer_runtime.replay.convert import CHUNK_STACKS
from seer_runtime.replay.replay import NothingToSampleError, Observations, Replay
from seer_runtime.replay.samplers import PrioritizedSampler, Sampler, UniformSampler
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from seer_runtime.replay.windows import n_step_windows
from seer_runtime.system.ledger import Line
from tests.runtime.naive_replay import ledger_of

P = 8  # bytes per frame


def _replay(
    frames: int, *, n: int = 1, stack: int = 1, gamma: float = 0.5, prioritized: bool = False, batch: int = 16
) -> Replay:
    ledger = ledger_of(frames * P)
    store = RowStore(FixedRows(Arena(frames * P, ledger), frame_codec((1, P))), stack=stack, ledger=ledger)
    sampler: Sampler = PrioritizedSampler(store, ledger) if prioritized else UniformSampler(store)
    rng = np.random.default_rng(0)
    return Replay(store, sampler, batch_size=batch, n_step=n, gamma=gamma, rng=rng, ledger=ledger)


def _observation(replay: Replay, row: int) -> NDArray[Any]:
    """Return a frame or latent whose value identifies its row."""
    codec = replay.store.codec
    return np.full(codec.shape, (row + 1) % 256, codec.dtype)


def _episode(replay: Replay, steps: int, ending: str = "running") -> None:
    """Append an episode with rewards of 1. All elements of the observation of row i are i + 1."""
    for step in range(steps):
        last = step == steps - 1
        replay.append(
            _observation(replay, replay.store.appended),
            0,
            1.0,
            terminated=last and ending == "terminated",
            truncated=last and ending == "truncated",
        )
    if ending == "truncated":
        replay.append_final(_observation(replay, replay.store.appended))


def _newest_frame(width: int) -> Any:
    """Return an encoder whose latents repeat the value of the newest frame."""

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.repeat(stacks[:, -1, 0, :1].astype(np.float32), width, axis=1)

    return encode


def _valid(replay: Replay) -> list[int]:
    store = replay.store
    ids = np.arange(store.oldest, store.appended)
    valid: list[int] = ids[n_step_windows(store, ids, replay.n_step, replay.gamma).valid].tolist()
    return valid


def _rows_read(replay: Replay, rows: list[int]) -> list[float]:
    """Return the first element of the newest decoded frame or latent of each row."""
    store = replay.store
    out = np.zeros((len(rows), *store.observation_shape), store.codec.dtype)
    store.gather(np.array(rows), store.codec.plain(len(rows)), out)
    newest: list[float] = out.reshape(len(rows), store.stack, -1)[:, -1, 0].tolist()
    return newest


def _decoded(observations: Observations) -> NDArray[Any]:
    """Return all observations as one array."""
    return np.concatenate([part.copy() for part in observations.slices()])


def _convert(replay: Replay, width: int = 1, name: str = "float32") -> int:
    codec: Codec = latent_codec(name, (width,))
    return replay.convert(codec, _newest_frame(width))


# --- the released code ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", [False, True])
def test_no_window_continues_from_the_newest_row_into_the_oldest(latents: bool) -> None:
    replay = _replay(20, n=3)
    if latents:
        _episode(replay, 5)
        _convert(replay, width=2)
    _episode(replay, 31)
    newest = replay.store.appended - 1
    assert replay.store.rows == replay.store.capacity == 20  # the slot after the newest row holds the oldest
    assert _valid(replay) == list(range(newest - 19, newest - 2))
    assert max(replay.draw(500).tolist()) == newest - 3


def test_new_latents_fill_the_free_slots_before_they_overwrite_old_rows() -> None:
    replay = _replay(20)
    _episode(replay, 27)  # the next row goes to the middle of the ring
    assert _convert(replay, width=1) == 20
    assert replay.store.capacity == 40
    _episode(replay, 20)
    assert replay.store.rows == 40
    assert _rows_read(replay, list(range(7, 47))) == list(range(8, 48))
    _episode(replay, 1)
    assert replay.store.oldest == 8
    assert _rows_read(replay, list(range(8, 48))) == list(range(9, 49))


@pytest.mark.parametrize("latents", [False, True])
def test_unfilled_slots_are_not_read_as_terminal_states(latents: bool) -> None:
    replay = _replay(50, n=4)
    _episode(replay, 12)
    if latents:
        _convert(replay)
    assert replay.store.rows < replay.store.capacity
    ids = np.arange(replay.store.capacity)
    windows = n_step_windows(replay.store, ids, 4, 0.5)
    assert np.flatnonzero(windows.valid).tolist() == list(range(8))
    assert windows.discounts[windows.valid].tolist() == [0.5**4] * 8
    assert replay.sample().discounts.tolist() == [0.5**4] * 16


def test_transition_at_the_freeze_step_is_kept() -> None:
    replay = _replay(20)
    _episode(replay, 9)  # row 8 is the step of the freeze; its next observation does not exist yet
    _convert(replay)
    assert 8 not in _valid(replay)
    _episode(replay, 1)
    assert 8 in _valid(replay)
    replay.n_step = 3
    _episode(replay, 2)
    windows = n_step_windows(replay.store, np.arange(6, 9), 3, 0.5)
    assert windows.valid.tolist() == [True, True, True]  # windows from converted rows into new latents
    assert _rows_read(replay, windows.bootstrap_ids.tolist()) == [10.0, 11.0, 12.0]


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_sampled_latents_keep_sign_and_fraction_and_match_their_rows(name: str) -> None:
    replay = _replay(30, prioritized=True)
    _episode(replay, 41)

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        return stacks[:, -1, 0, :2].astype(np.float32) * np.array([-0.25, 300.5], np.float32)

    replay.convert(latent_codec(name, (2,)), encode)
    replay.update_priorities(np.arange(11, 41), np.arange(1, 31, dtype=np.float32))
    batch = replay.sample()
    observations, next_observations = _decoded(batch.observations), _decoded(batch.next_observations)
    assert observations.dtype == np.float32
    element = np.dtype(name)
    for row, own, after in zip(batch.row_ids.tolist(), observations, next_observations, strict=True):
        for latent, number in ((own, row + 1), (after, row + 2)):
            wanted = (number * np.array([-0.25, 300.5], np.float32)).astype(element)
            assert latent.tolist() == wanted.astype(np.float32).tolist()


@pytest.mark.parametrize("rows", [60, 100, 170])
def test_latents_larger_than_frames_keep_the_newest_rows(rows: int) -> None:
    replay = _replay(100, stack=3)
    _episode(replay, rows)
    assert _convert(replay, width=4) == 50  # a latent has 16 bytes, a frame 8
    assert replay.store.capacity == 50
    assert _rows_read(replay, list(range(rows - 50, rows))) == list(range(rows - 49, rows + 1))
    _episode(replay, 7)
    assert _rows_read(replay, list(range(rows - 43, rows + 7))) == list(range(rows - 42, rows + 8))


def test_conversion_encodes_chunks_and_never_all_stacks_at_once() -> None:
    replay = _replay(400, stack=4, n=20)
    _episode(replay, 400)
    shown: list[int] = []

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        shown.append(len(stacks))
        return _newest_frame(1)(stacks)

    ledger = replay.store.ledger
    before = ledger.held_bytes(Line.WORKSPACE)
    assert replay.convert(latent_codec("float32", (1,)), encode) == sum(shown) == 400
    assert max(shown) <= CHUNK_STACKS
    latent_minibatch = 2 * replay.batch_size * 4
    assert ledger.peak_bytes(Line.WORKSPACE) - before <= (CHUNK_STACKS * 5 + 3) * P + latent_minibatch


def test_frames_and_latents_are_not_distinguished_by_shape_or_values() -> None:
    single = _replay(10, stack=1)
    dark = np.array([[0, 1, 1, 0, 1, 0, 0, 1]], np.uint8)  # a frame without values above 1
    for _ in range(5):
        single.append(dark, 0, 0.0, terminated=False, truncated=False)
    batch = single.sample()
    observations = _decoded(batch.observations)
    assert observations.shape == (16, 1, 1, P)  # a stack of one frame keeps its axis
    assert _decoded(batch.next_observations).shape == (16, 1, 1, P)
    assert observations.dtype == np.uint8
    assert (observations == dark).all()
    # These latents have the shape of a frame stack and values far above 1.
    single.convert(latent_codec("float32", (1, 2)), lambda stacks: stacks[:, :, 0, :2].astype(np.float32) + 500)
    observations = _decoded(single.sample().observations)
    assert observations.shape == (16, 1, 2)
    assert observations.dtype == np.float32
    assert (observations == [500, 501]).all()


@pytest.mark.parametrize("n", [1, 2, 7, 20, 21, 40])
def test_latent_windows_span_n_steps(n: int) -> None:
    replay = _replay(60, n=n)
    _episode(replay, 50)
    _convert(replay)
    windows = n_step_windows(replay.store, np.array([3]), n, 0.5)
    assert windows.valid.all()
    assert windows.bootstrap_ids.tolist() == [3 + n]
    np.testing.assert_allclose(windows.returns, [2 - 0.5 ** (n - 1)], rtol=1e-6)
    np.testing.assert_allclose(windows.discounts, [0.5**n], rtol=1e-6)


# --- similar projects -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("latents", [False, True])
def test_sb3_truncated_episode_bootstraps_from_its_final_frame(latents: bool) -> None:
    replay = _replay(30, n=3)
    _episode(replay, 5, "truncated")  # rows 0 to 4, the final frame in row 5
    _episode(replay, 6)  # the next episode begins in row 6
    if latents:
        _convert(replay)
    windows = n_step_windows(replay.store, np.arange(6), 3, 0.5)
    assert windows.valid.tolist() == [True] * 5 + [False]
    assert windows.bootstrap_ids[:5].tolist() == [3, 4, 5, 5, 5]
    assert windows.returns[:5].tolist() == [1.75, 1.75, 1.75, 1.5, 1.0]
    assert windows.discounts[:5].tolist() == [0.125, 0.125, 0.125, 0.25, 0.5]


def test_sb3_truncated_episode_is_not_sampled_before_its_final_frame_is_appended() -> None:
    replay = _replay(10)
    replay.append(_observation(replay, 0), 0, 1.0, terminated=False, truncated=True)
    with pytest.raises(NothingToSampleError):
        replay.sample()
    replay.append_final(_observation(replay, 1))
    assert set(replay.sample().row_ids.tolist()) == {0}


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
@pytest.mark.parametrize("latents", [False, True])
def test_cleanrl_every_step_of_an_ended_episode_is_sampled(ending: str, latents: bool) -> None:
    replay = _replay(40, n=10)
    _episode(replay, 6, ending)  # shorter than n
    first = replay.store.appended
    _episode(replay, 15, ending)
    if latents:
        _convert(replay)
    starts = [*range(6), *range(first, first + 15)]
    assert _valid(replay) == starts
    assert set(replay.draw(2_000).tolist()) == set(starts)
    windows = n_step_windows(replay.store, np.arange(first + 5, first + 15), 10, 0.5)
    steps = np.arange(10, 0, -1)
    np.testing.assert_allclose(windows.returns, 2 - 0.5 ** (steps - 1.0), rtol=1e-6)
    np.testing.assert_allclose(windows.discounts, 0.5**steps if ending == "truncated" else np.zeros(10), rtol=1e-6)


def test_cpprb_n_step_windows_of_stacks_store_each_frame_once() -> None:
    replay = _replay(30, n=5, stack=4, batch=8)
    _episode(replay, 8, "terminated")
    _episode(replay, 12)
    assert replay.store.arena.size_bytes == 30 * P
    frames = replay.store.storage.data[:20, 0].tolist()
    assert frames == list(range(1, 21))  # each frame once, in order
    seen = set()
    for _ in range(40):
        batch = replay.sample()
        halves = _decoded(batch.observations), _decoded(batch.next_observations)
        for row, own, after, discount in zip(batch.row_ids.tolist(), *halves, batch.discounts, strict=True):
            seen.add(row)
            first = 0 if row < 8 else 8
            assert own[:, 0, 0].tolist() == [k + 1 if k >= first else 0 for k in range(row - 3, row + 1)]
            assert discount == (0.5**5 if row < 3 or row >= 8 else 0.0)
            if discount:
                assert after[:, 0, 0].tolist() == [k + 1 if k >= first else 0 for k in range(row + 2, row + 6)]
    assert seen == {*range(8), *range(8, 15)}
