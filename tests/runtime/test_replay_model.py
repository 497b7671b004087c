"""Row store, windows, samplers and replay against the naive model, before, during and after the conversion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from seer_runtime import convert
from seer_runtime.arena import Arena
from seer_runtime.codecs import frame_codec, latent_codec
from seer_runtime.ledger import Ledger, Line
from seer_runtime.replay import NothingToSampleError, Replay
from seer_runtime.samplers import PrioritizedSampler, UniformSampler
from seer_runtime.store import RowStore
from tests.runtime.naive_replay import NaiveReplay, assert_agrees, assert_observations, hash_encoder, ledger_of

FRAME = (2, 4)
FRAME_BYTES = 8
GAMMA = 0.9
# Rows of 2, 4 (smaller), 8 (equal), 14 and 20 (larger than a frame's 8) bytes.
LATENTS = [("float16", 1), ("float32", 1), ("float16", 4), ("float32", 2), ("float16", 7), ("float32", 5)]


@dataclass
class Pair:
    """The replay under test and the log, fed with the same random steps."""

    store: RowStore
    replay: Replay
    log: NaiveReplay
    ledger: Ledger
    rng: np.random.Generator

    @classmethod
    def build(
        cls,
        *,
        capacity: int,
        stack: int,
        n: int,
        slack_bytes: int = 0,
        vector: bool = False,
        prioritized: bool = False,
        seed: int = 0,
    ) -> "Pair":
        size_bytes = capacity * FRAME_BYTES + slack_bytes
        ledger = ledger_of(size_bytes)
        store = RowStore(
            Arena(size_bytes, ledger),
            frame_codec(FRAME),
            stack=stack,
            ledger=ledger,
            action_shape=(2,) if vector else (),
            action_dtype=np.float32 if vector else np.int32,
        )
        rng = np.random.default_rng(seed)
        sampler = PrioritizedSampler(store, ledger) if prioritized else UniformSampler(store)
        replay = Replay(store, sampler, batch_size=3, n_step=n, gamma=GAMMA, rng=rng, ledger=ledger)
        return cls(store, replay, NaiveReplay(capacity, stack), ledger, rng)

    def frame(self) -> NDArray[np.uint8]:
        return self.rng.integers(0, 256, FRAME, np.uint8)

    def stored(self, row: int) -> NDArray[Any]:
        """What the run would hand the store for `row`: its frame, or the latent of its stack."""
        if self.log.encode is None:
            return self.log.stack(row)[-1]
        return self.log.encode(self.log.stack(row)[None])[0]

    def step(self, *, terminated: bool = False, truncated: bool = False) -> None:
        action: Any = (
            self.rng.random(2, np.float32) if self.store.action_shape else self.rng.integers(18, dtype=np.int32)
        )
        reward = float(self.rng.integers(-8, 9)) / 4
        row = self.log.step(self.frame(), action, reward, terminated=terminated, truncated=truncated)
        self.replay.append(self.stored(row), action, reward, terminated=terminated, truncated=truncated)

    def final(self) -> None:
        self.replay.append_final(self.stored(self.log.final(self.frame())))

    def cut(self) -> None:
        self.log.cut()
        self.store.cut()

    def episode(self, length: int, ending: str) -> None:
        """`length` steps, then the ending: terminated, truncated, cut or running."""
        for _ in range(length - 1):
            self.step()
        self.step(terminated=ending == "terminated", truncated=ending == "truncated")
        if ending == "truncated":
            self.final()
        elif ending == "cut":
            self.cut()

    def convert(self, name: str, width: int) -> list[int]:
        """Convert both; what the encoder is shown and what it leaves untouched are compared with the log."""
        log, store, encode = self.log, self.store, hash_encoder(width)
        codec = latent_codec(name, (width,))
        arena, address = store.arena, store.arena.bytes.ctypes.data
        latent_capacity = arena.size_bytes // codec.row_bytes
        pixel_rows, held = [log.stack(row)[-1] for row in range(len(log.rows))], log.held()
        whole = [row for row in held if log.stack_is_whole(row)]
        stacks = {row: log.stack(row) for row in whole}
        kept = log.convert(encode, latent_capacity, name)
        shown: list[NDArray[np.uint8]] = []

        def spy(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            shown.extend(batch.copy())
            left = kept[len(shown) :]
            tail = arena.bytes[arena.size_bytes - len(left) * FRAME_BYTES :].reshape(-1, *FRAME)
            for row, frame in zip(left, tail, strict=True):
                np.testing.assert_array_equal(frame, pixel_rows[row], err_msg=f"frame of row {row} was overwritten")
            return encode(batch)

        assert self.replay.convert(codec, spy) == len(kept)
        assert len(kept) == min(len(whole), latent_capacity)
        assert len(held) - len(whole) <= log.stack_size - 1
        assert len(shown) == len(kept)
        for row, stack in zip(kept, shown, strict=True):
            np.testing.assert_array_equal(stack, stacks[row], err_msg=f"stack of row {row}")
        assert store.arena is arena
        assert arena.bytes.ctypes.data == address
        return kept

    def check(self) -> None:
        assert_agrees(self.store, self.log, self.replay.n_step, GAMMA)
        assert np.shares_memory(self.store.data, self.store.arena.bytes)
        assert self.ledger.held_bytes(Line.OBSERVATIONS) == self.store.arena.size_bytes
        assert self.ledger.peak_bytes(Line.OBSERVATIONS) == self.ledger.cap_bytes(Line.OBSERVATIONS)
        assert self.ledger.held_bytes(Line.COLUMNS) == sum(array.nbytes for array in self.store.columns.arrays())

    def check_sample(self) -> None:
        log, n = self.log, self.replay.n_step
        if all(log.target(row, n, GAMMA) is None for row in log.held()):
            with pytest.raises(NothingToSampleError):
                self.replay.sample()
            return
        batch = self.replay.sample()
        for index, row in enumerate(batch.row_ids.tolist()):
            target = log.target(row, n, GAMMA)
            assert target is not None, f"row {row} can not start a window"
            episode, step = log.rows[row]
            bootstrap = row if target.bootstrap is None else target.bootstrap
            np.testing.assert_array_equal(batch.observations[index], log.observation(row))
            np.testing.assert_array_equal(batch.next_observations[index], log.observation(bootstrap))
            np.testing.assert_array_equal(batch.actions[index], episode.actions[step])
            np.testing.assert_allclose(batch.returns[index], target.n_return, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(batch.discounts[index], target.discount, rtol=1e-6)


class ReplayMachine(RuleBasedStateMachine):
    """Any order of steps, endings, cuts, samples, priority updates and one conversion."""

    @initialize(
        stack=st.integers(1, 4),
        room=st.integers(0, 30),
        slack_bytes=st.integers(0, FRAME_BYTES - 1),
        n=st.sampled_from([1, 2, 3, 5, 20, 40]),
        vector=st.booleans(),
        prioritized=st.booleans(),
        seed=st.integers(0, 2**32 - 1),
    )
    def build(
        self, stack: int, room: int, slack_bytes: int, n: int, vector: bool, prioritized: bool, seed: int
    ) -> None:
        self.pair = Pair.build(
            capacity=stack + room,
            stack=stack,
            n=n,
            slack_bytes=slack_bytes,
            vector=vector,
            prioritized=prioritized,
            seed=seed,
        )
        self.prioritized = prioritized
        self.priorities: dict[int, float] = {}  # row id -> what the tree must hold
        self.largest = 1.0

    def note_priorities(self) -> None:
        for row in range(len(self.priorities), len(self.pair.log.rows)):
            self.priorities[row] = 0.0 if self.pair.log.flags(row) & 4 else self.largest

    @precondition(lambda self: not self.pair.log.lacks_final)
    @rule(count=st.integers(1, 25))
    def advance(self, count: int) -> None:
        for _ in range(count):
            self.pair.step()
        self.note_priorities()

    @precondition(lambda self: not self.pair.log.lacks_final)
    @rule(terminated=st.booleans(), truncated=st.booleans())
    def step(self, terminated: bool, truncated: bool) -> None:
        self.pair.step(terminated=terminated, truncated=truncated)
        self.note_priorities()

    @precondition(lambda self: self.pair.log.lacks_final)
    @rule()
    def final(self) -> None:
        with pytest.raises(ValueError, match="append its final observation first"):
            self.pair.store.append(
                np.zeros(self.pair.store.codec.shape, self.pair.store.codec.dtype),
                0,
                0.0,
                terminated=False,
                truncated=False,
            )
        self.pair.final()
        self.note_priorities()

    @precondition(lambda self: not self.pair.log.lacks_final)
    @rule()
    def no_final_is_due(self) -> None:
        with pytest.raises(ValueError, match="only a truncated episode"):
            self.pair.store.append_final(np.zeros(self.pair.store.codec.shape, self.pair.store.codec.dtype))

    @rule()
    def cut(self) -> None:
        self.pair.cut()

    @rule()
    def sample(self) -> None:
        self.pair.check_sample()

    @precondition(lambda self: self.prioritized and self.pair.log.rows)
    @rule(data=st.data(), value=st.integers(1, 50))
    def update_priorities(self, data: st.DataObject, value: int) -> None:
        newest = len(self.pair.log.rows) - 1
        rows = data.draw(st.lists(st.integers(max(0, newest - 60), newest), min_size=1, max_size=4, unique=True))
        values = np.array([value + index for index in range(len(rows))], np.float32)
        self.pair.replay.update_priorities(np.array(rows), values)
        held = set(self.pair.log.held())
        for row, priority in zip(rows, values.tolist(), strict=True):
            if row in held:
                self.priorities[row] = priority**0.5
                self.largest = max(self.largest, priority**0.5)

    @precondition(lambda self: self.pair.log.encode is None)
    @rule(latent=st.sampled_from(LATENTS), chunk_rows=st.sampled_from([1, 2, 3, 7, 64]))
    def convert(self, latent: tuple[str, int], chunk_rows: int) -> None:
        store, codec = self.pair.store, latent_codec(latent[0], (latent[1],))
        if codec.row_bytes > store.arena.size_bytes:
            with pytest.raises(ValueError, match="does not fit"):
                self.pair.replay.convert(codec, hash_encoder(latent[1]))
            return
        with mock.patch.object(convert, "CHUNK_ROWS", chunk_rows):
            self.pair.convert(*latent)

    @invariant()
    def every_row_agrees(self) -> None:
        self.pair.check()

    @invariant()
    def priorities_follow_the_ids(self) -> None:
        if self.prioritized:
            rows = self.pair.log.held()
            got = self.pair.replay.sampler.priorities(np.array(rows, np.int64))
            np.testing.assert_allclose(got, [self.priorities[row] for row in rows], rtol=1e-6)


ReplayMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=25, deadline=None, derandomize=True)
TestReplayMachine = ReplayMachine.TestCase


def _play(pair: Pair, rows: int) -> None:
    """At least `rows` rows of episodes of mixed lengths and endings; the last one keeps running."""
    endings = ["terminated", "truncated", "cut"]
    goal = len(pair.log.rows) + rows
    while len(pair.log.rows) < goal:
        pair.episode(int(pair.rng.choice([1, 2, 3, 9, 40])), endings[int(pair.rng.integers(3))])
    pair.episode(6, "running")


@pytest.mark.parametrize("latent", LATENTS)
@pytest.mark.parametrize("stack", [1, 4])
@pytest.mark.parametrize("rows", [150, 500])
def test_conversion_over_many_real_chunks(latent: tuple[str, int], stack: int, rows: int) -> None:
    pair = Pair.build(capacity=230, stack=stack, n=3, slack_bytes=5)
    _play(pair, rows)
    pair.check()
    pair.convert(*latent)
    pair.check()
    pair.step()  # the episode that was running goes on
    pair.step(truncated=True)
    pair.check()
    pair.final()
    _play(pair, 100)
    pair.check()
    _play(pair, pair.store.capacity)  # the ring of latents wraps
    pair.check()
    pair.check_sample()


def test_conversion_in_an_episode_older_than_the_age_column_counts() -> None:
    pair = Pair.build(capacity=70, stack=4, n=2)
    pair.episode(300, "running")
    pair.check()
    pair.convert("float32", 1)
    pair.check()


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_conversion_of_a_hardly_filled_store(rows: int) -> None:
    pair = Pair.build(capacity=10, stack=4, n=2)
    for _ in range(rows):
        pair.step()
    assert pair.convert("float32", 1) == list(range(rows))
    pair.check()
    pair.episode(30, "terminated")
    pair.check()


def test_conversion_between_a_truncated_step_and_its_final_frame() -> None:
    pair = Pair.build(capacity=10, stack=3, n=2)
    pair.episode(11, "terminated")
    pair.step()
    pair.step(truncated=True)
    pair.convert("float32", 1)
    pair.check()
    pair.final()
    pair.check()


def test_a_wrapped_ring_loses_only_the_oldest_rows_of_a_broken_stack() -> None:
    pair = Pair.build(capacity=10, stack=4, n=1)
    pair.episode(25, "running")
    assert pair.convert("float32", 2) == list(range(18, 25))  # 15, 16 and 17 lack frame 14, 13 or 12


def test_a_wrapped_ring_keeps_whole_stacks_behind_an_episode_start() -> None:
    pair = Pair.build(capacity=10, stack=4, n=1)
    pair.episode(16, "terminated")
    pair.episode(9, "running")  # rows 16 to 24; row 15 is the oldest held
    assert pair.convert("float32", 2) == list(range(16, 25))


# --- the oracle itself: a planted fault must be found ---------------------------------------------------------


def _frames_one_row_early(*args: Any) -> NDArray[np.uint8]:
    return np.roll(RIGHT_ALIGN(*args), 1, axis=0)


def _frames_one_row_late(*args: Any) -> NDArray[np.uint8]:
    return np.roll(RIGHT_ALIGN(*args), -1, axis=0)


def _columns_one_row_early(store: RowStore, first: int, columns: Any) -> None:
    COPY_COLUMNS(store, first, columns)
    for column in columns.arrays():
        column[:] = np.roll(column, 1, axis=0)


def _no_frames_carried(*args: Any) -> None:
    pass


def _no_blank_frames(window: NDArray[np.uint8], ages: NDArray[np.uint8], stacks: NDArray[np.uint8]) -> None:
    STACK(window, np.full_like(ages, 255), stacks)


RIGHT_ALIGN, COPY_COLUMNS, STACK = convert._right_align, convert._copy_columns, convert._stack
PLANTED = [
    ("_right_align", _frames_one_row_early),
    ("_right_align", _frames_one_row_late),
    ("_copy_columns", _columns_one_row_early),
    ("_carry_frames_before", _no_frames_carried),
    ("_stack", _no_blank_frames),
]


@pytest.mark.parametrize(("name", "fault"), PLANTED, ids=[fault.__name__ for _, fault in PLANTED])
def test_the_oracle_finds_a_planted_fault(name: str, fault: Callable[..., Any]) -> None:
    pair = Pair.build(capacity=100, stack=4, n=3)
    _play(pair, 250)
    pair.episode(30, "running")
    wanted = pair.log
    plain_convert = hash_encoder(5)
    codec = latent_codec("float32", (5,))  # fewer rows than before, so frames must be carried into the first stack
    with mock.patch.object(convert, name, fault):
        pair.replay.convert(codec, plain_convert)
    kept = wanted.convert(plain_convert, pair.store.capacity, np.float32)
    with pytest.raises(AssertionError):
        pair.check()
    if name != "_copy_columns":
        with pytest.raises(AssertionError, match="row"):
            assert_observations(pair.store, wanted, kept)


def test_the_oracle_agrees_without_a_planted_fault() -> None:
    pair = Pair.build(capacity=100, stack=4, n=3)
    _play(pair, 250)
    pair.episode(30, "running")
    pair.convert("float32", 5)
    pair.check()
