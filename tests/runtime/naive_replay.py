"""A slow, obvious model of the replay: whole episodes in lists, everything computed by loops from them.

It knows nothing of rings, slots, flags or conversions in place. The only thing it shares with the data plane is the
meaning of a row id: the number of rows that were appended before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.ledger import WORKSPACE_CAP_BYTES, Ledger, Line
from seer_runtime.store import FINAL, TERMINATED, TRUNCATED, RowStore
from seer_runtime.windows import n_step_windows

Frame = NDArray[np.uint8]
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass
class Episode:
    """All frames of an episode; the final frame of a truncated one has no action."""

    frames: list[Frame] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    @property
    def lacks_final(self) -> bool:
        return self.truncated and len(self.frames) == len(self.actions)

    @property
    def ended(self) -> bool:
        return self.terminated or (self.truncated and not self.lacks_final)


@dataclass(frozen=True)
class Target:
    """What an n-step window from a row must give; `bootstrap` is None where it ends in a terminal state."""

    n_return: float
    discount: float
    bootstrap: int | None


class NaiveReplay:
    """The log of everything that was ever appended, and which of it a ring of `capacity` rows still holds."""

    def __init__(self, capacity: int, stack: int) -> None:
        self.capacity = capacity
        self.stack_size = stack
        self.rows: list[tuple[Episode, int]] = []  # row id -> (episode, step)
        self.encode: Encode | None = None
        self.element = np.dtype(np.float32)
        self._dropped_before = 0  # rows below this id were left behind by the conversion

    # --- writing ---

    @property
    def running(self) -> bool:
        return bool(self.rows) and not self.rows[-1][0].ended

    @property
    def lacks_final(self) -> bool:
        return self.running and self.rows[-1][0].lacks_final

    def step(self, frame: Frame, action: Any, reward: float, *, terminated: bool, truncated: bool) -> int:
        episode = self.rows[-1][0] if self.running else Episode()
        self.rows.append((episode, len(episode.frames)))
        episode.frames.append(frame)
        episode.actions.append(action)
        episode.rewards.append(reward)
        episode.terminated = terminated
        episode.truncated = truncated and not terminated
        return len(self.rows) - 1

    def final(self, frame: Frame) -> int:
        episode = self.rows[-1][0]
        self.rows.append((episode, len(episode.frames)))
        episode.frames.append(frame)
        return len(self.rows) - 1

    def cut(self) -> None:
        if self.running:
            episode = self.rows[-1][0]
            episode.actions.pop()
            episode.rewards.pop()
            episode.truncated = True

    def convert(self, encode: Encode, capacity: int, element: Any) -> list[int]:
        """From now on rows are `encode(stack)` stored as `element`; returns the ids that are kept."""
        kept = [row for row in self.held() if self.stack_is_whole(row)][-capacity:]
        self._dropped_before = kept[0] if kept else len(self.rows)
        self.encode, self.capacity, self.element = encode, capacity, np.dtype(element)
        return kept

    # --- what every row must be ---

    def held(self) -> list[int]:
        return list(range(max(len(self.rows) - self.capacity, self._dropped_before, 0), len(self.rows)))

    def stack(self, row: int) -> Frame:
        """`[S, *frame]`, zero before the episode's first frame."""
        episode, step = self.rows[row]
        blank = np.zeros_like(episode.frames[0])
        return np.stack(
            [episode.frames[k] if k >= 0 else blank for k in range(step - self.stack_size + 1, step + 1)],
        )

    def stack_is_whole(self, row: int) -> bool:
        if self.encode is not None:
            return True
        _, step = self.rows[row]
        needed = range(row - min(step, self.stack_size - 1), row + 1)
        held = self.held()
        return all(held[0] <= other for other in needed)

    def observation(self, row: int) -> NDArray[Any]:
        """The stack, or its stored latent."""
        if self.encode is None:
            return self.stack(row)
        return self.encode(self.stack(row)[None])[0].astype(self.element).astype(np.float32)

    def flags(self, row: int) -> int:
        episode, step = self.rows[row]
        if step == len(episode.actions):
            return int(FINAL)
        if step == len(episode.actions) - 1:
            return int(TERMINATED) * episode.terminated + int(TRUNCATED) * episode.truncated
        return 0

    def target(self, row: int, n: int, gamma: float) -> Target | None:
        """The window that starts at `row`, or None where none can."""
        if row not in self.held() or not self.stack_is_whole(row):
            return None
        episode, start = self.rows[row]
        n_return = 0.0
        for k in range(n):
            step = start + k
            if step >= len(episode.actions):
                return None  # a final frame, or not yet happened
            n_return += gamma**k * episode.rewards[step]
            last = step == len(episode.actions) - 1
            if last and episode.terminated:
                return Target(n_return, 0.0, None)
            if last and episode.truncated:
                break
        if step + 1 >= len(episode.frames):
            return None
        return Target(n_return, gamma ** (k + 1), row + k + 1)


def assert_agrees(store: RowStore, log: NaiveReplay, n: int, gamma: float) -> None:
    """Every row of `store`, and the ids around them, against `log`."""
    held = log.held()
    assert (store.oldest, store.appended, store.rows) == (len(log.rows) - len(held), len(log.rows), len(held))
    assert store.capacity == log.capacity
    _assert_columns(store, log, held)
    ids = np.arange(store.oldest - 3, store.appended + 3)
    windows = n_step_windows(store, ids, n, gamma)
    valid: list[int] = []
    for index, row in enumerate(ids.tolist()):
        target = log.target(row, n, gamma)
        assert bool(windows.valid[index]) == (target is not None), f"row {row}: {target}"
        if target is None:
            continue
        np.testing.assert_allclose(windows.returns[index], target.n_return, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(windows.discounts[index], target.discount, rtol=1e-6)
        bootstrap = row if target.bootstrap is None else target.bootstrap
        assert windows.bootstrap_ids[index] == bootstrap
        valid += [row, bootstrap]
    if log.encode is not None:
        valid += held
    if valid:
        assert_observations(store, log, valid)


def assert_observations(store: RowStore, log: NaiveReplay, rows: list[int]) -> None:
    """The decoded observations of `rows` against the log, to the bit."""
    out = np.full((len(rows), store.stack, *store.codec.shape), 77, store.codec.dtype)
    store.gather(np.array(rows, np.int64), out)
    for row, got in zip(rows, out, strict=True):
        want = log.observation(row)
        np.testing.assert_array_equal(got.reshape(want.shape), want, err_msg=f"row {row}")


def _assert_columns(store: RowStore, log: NaiveReplay, held: list[int]) -> None:
    slots = store.slots(np.array(held, np.int64))
    assert len(set(slots.tolist())) == len(held)
    for row, slot in zip(held, slots.tolist(), strict=True):
        episode, step = log.rows[row]
        assert store.columns.flags[slot] == log.flags(row), f"row {row}"
        assert store.columns.age[slot] == min(step, 255), f"row {row}"
        if step < len(episode.actions):
            np.testing.assert_array_equal(store.columns.action[slot], episode.actions[step], err_msg=f"row {row}")
            assert store.columns.reward[slot] == np.float32(episode.rewards[step]), f"row {row}"


def hash_encoder(width: int) -> Encode:
    """A fixed integer projection of a stack to `[width]`: exact in any batch size, different for different stacks."""

    def encode(stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
        flat = stacks.reshape(len(stacks), -1).astype(np.int64)
        factors = np.random.default_rng(flat.shape[1] * 1000 + width).integers(1, 4093, (flat.shape[1], width))
        return ((flat @ factors) % 4093).astype(np.float32)

    return encode


def ledger_of(observations_bytes: int) -> Ledger:
    """A ledger with the two caps of a real run."""
    return Ledger({Line.OBSERVATIONS: observations_bytes, Line.WORKSPACE: WORKSPACE_CAP_BYTES})
