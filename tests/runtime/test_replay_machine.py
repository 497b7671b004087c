"""A state machine test of the replay: random operations in any order, checked against the naive model."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seer_runtime.replay import convert, replay
from seer_runtime.replay.codecs import latent_codec
from tests.runtime.naive_replay import hash_encoder
from tests.runtime.replay_pair import Pair

pytestmark = pytest.mark.integration

sides = st.integers(1, 4)


@st.composite
def frames_and_crops(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Generate gray frames `(H, W)` or RGB frames `(3, H, W)`, and crops from 1x1 to the whole frame."""
    size = draw(sides), draw(sides)
    crop = draw(st.integers(1, size[0])), draw(st.integers(1, size[1]))
    return (size if draw(st.booleans()) else (3, *size)), crop


class ReplayMachine(RuleBasedStateMachine):
    @initialize(
        stack=st.integers(1, 4),
        room=st.integers(0, 30).map(lambda below: 30 - below),
        frame_and_crop=frames_and_crops(),
        slack=st.floats(0, 1, exclude_max=True),
        batch=st.integers(1, 7),
        slice_bytes=st.sampled_from([1, 40, 120, 2_000_000]),
        n=st.sampled_from([1, 2, 3, 5, 20, 40]),
        vector=st.booleans(),
        prioritized=st.booleans(),
        limit=st.none() | st.sampled_from([300, 40, 8]),
        changing=st.sampled_from([0.0, 0.05, 1.0]),
        seed=st.integers(0, 2**32 - 1),
    )
    def build(
        self,
        stack: int,
        room: int,
        frame_and_crop: tuple[tuple[int, ...], tuple[int, int]],
        slack: float,
        batch: int,
        slice_bytes: int,
        n: int,
        vector: bool,
        prioritized: bool,
        limit: int | None,
        changing: float,
        seed: int,
    ) -> None:
        frame, crop = frame_and_crop
        self.slice_bytes = mock.patch.object(replay, "SLICE_BYTES", slice_bytes)
        self.slice_bytes.start()
        self.pair = Pair.build(
            capacity=stack + room if limit is None else 16 + room,
            stack=stack,
            n=n,
            frame=frame,
            crop=crop,
            batch=batch,
            slack_bytes=int(slack * np.prod(frame)),
            vector=vector,
            prioritized=prioritized,
            seed=seed,
            limit=limit,
            changing=changing,
        )
        self.prioritized = prioritized
        self.priorities: dict[int, float] = {}  # row id -> expected value in the tree
        self.largest = 1.0

    def teardown(self) -> None:
        self.slice_bytes.stop()

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
    @rule(rows=st.sampled_from([40, 15]))
    def play(self, rows: int) -> None:
        self.pair.play(rows, ("terminated", "truncated", "lost life"))
        self.note_priorities()

    @precondition(lambda self: not self.pair.log.lacks_final)
    @rule(terminated=st.booleans(), truncated=st.booleans())
    def step(self, terminated: bool, truncated: bool) -> None:
        self.pair.step(terminated=terminated, truncated=truncated)
        self.note_priorities()

    @precondition(lambda self: not self.pair.log.lacks_final)
    @rule()
    def lose_life(self) -> None:
        self.pair.lose_life()
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

    @precondition(lambda self: not self.pair.log.lacks_final)
    @rule()
    def interrupt(self) -> None:
        self.pair.interrupt()
        self.note_priorities()

    @rule(changing=st.sampled_from([0.0, 0.05, 1.0]))
    def compress_better_or_worse(self, changing: float) -> None:
        self.pair.changing = changing

    @rule(change=st.sampled_from([0, 0, -1, 1, -7, 7, 40]), limit=st.none() | st.sampled_from([300, 40, 8]))
    def reload(self, change: int, limit: int | None) -> None:
        """Save the replay and restore it with the same, a smaller or a larger capacity."""
        store = self.pair.store
        rows, slack_bytes = divmod(store.arena.size_bytes, store.codec.row_bytes)
        if self.pair.limit is None:
            self.pair.reload(max(rows + change, store.stack))
        else:
            self.pair.reload(max(rows + change, 16), slack_bytes=slack_bytes, limit=limit or self.pair.limit)

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
    @rule(
        name=st.sampled_from(["float32", "float16", "uint8", "uint4"]),
        networks=st.integers(1, 2),
        width=st.sampled_from([1, 2, 5]),
        augmentations=st.sampled_from([4, 3, 2, 1]),
        chunk_stacks=st.sampled_from([1, 2, 3, 7, 64]),
    )
    def convert(self, name: str, networks: int, width: int, augmentations: int, chunk_stacks: int) -> None:
        """Convert frames of 1 to 48 bytes to latent rows of 1 to 160 bytes."""
        codec = latent_codec(name, (networks, width), augmentations)
        rows, message = (1, "does not fit") if self.pair.limit is None else (16, "cannot hold two blocks")
        if rows * codec.row_bytes > self.pair.store.arena.size_bytes:
            with pytest.raises(ValueError, match=message):
                self.pair.replay.convert(codec, hash_encoder(networks, width))
            return
        with mock.patch.object(convert, "CHUNK_STACKS", chunk_stacks):
            self.pair.convert(name, (networks, width), augmentations)

    @invariant()
    def every_row_agrees(self) -> None:
        self.pair.check()

    @invariant()
    def priorities_follow_the_ids(self) -> None:
        if self.prioritized:
            rows = self.pair.log.held()
            got = self.pair.replay.sampler.priorities(np.array(rows, np.int64))
            wanted = [self.priorities[row] for row in rows]
            np.testing.assert_allclose(got, wanted, rtol=1e-6)
            # Rows that are not held have no priority.
            assert self.pair.replay.sampler._tree.total == pytest.approx(sum(wanted), rel=1e-6)


class TestReplayMachine(ReplayMachine.TestCase):
    settings = settings(max_examples=40, stateful_step_count=25, derandomize=True)


@pytest.mark.slow
class TestReplayMachineAtLength(ReplayMachine.TestCase):
    settings = settings(max_examples=1_000, stateful_step_count=25)
