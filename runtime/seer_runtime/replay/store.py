"""The row store: one row is one time step, frames and latents alike.

An episode is what returns are summed over; a scene is what frame stacks look back through. A scene is one episode,
or several where an episode ends and the next goes on in the same game (`RowStore.continue_scene`).

Row `id`s count every row ever appended and survive both the wrap of the ring and the conversion, so an id that
was handed out earlier either still names the same time step or is recognisably gone.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from seer_runtime.durable import TensorFile
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import Codec, Views
from seer_runtime.system.ledger import Ledger, Line

Ids = NDArray[np.int64]

TERMINATED = np.uint8(1)
TRUNCATED = np.uint8(2)
FINAL = np.uint8(4)
"""The row holds the last frame of a truncated episode: it is bootstrapped from and has no action."""
CONTINUED = np.uint8(8)
"""The row terminated its episode, and the scene goes on with the next row."""
KNOWN_FLAGS = TERMINATED | TRUNCATED | FINAL | CONTINUED

MAX_STACK = 255
APPENDED_MAX = 2**53
"""Rows of a store's whole life, so that no count ever overflows."""


@dataclass
class Columns:
    """What a row holds beside its observation, one array element a slot."""

    action: NDArray[Any]  # [capacity, *action_shape]
    reward: NDArray[np.float32]  # [capacity]
    flags: NDArray[np.uint8]  # [capacity]
    age: NDArray[np.uint8]  # [capacity], rows since the scene began, saturating

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All columns, in a fixed order."""
        return (self.action, self.reward, self.flags, self.age)


def column_bytes(action_shape: tuple[int, ...] = (), action_dtype: DTypeLike = np.int32) -> int:
    """Bytes of one row's columns."""
    return math.prod(action_shape) * np.dtype(action_dtype).itemsize + 6


class RowStore:
    """A ring of rows in an arena.

    `stack` is the number of consecutive rows that make one observation: S for frames, 1 for latents, which
    already encode their stack.
    """

    def __init__(
        self,
        arena: Arena,
        codec: Codec,
        *,
        stack: int,
        ledger: Ledger,
        action_shape: tuple[int, ...] = (),
        action_dtype: DTypeLike = np.int32,
    ) -> None:
        if not 1 <= stack <= MAX_STACK:
            raise ValueError(f"a stack of {stack} is outside 1 to {MAX_STACK}")
        self.arena = arena
        self.ledger = ledger
        self.action_shape = action_shape
        self.action_dtype = np.dtype(action_dtype)
        self.appended = 0
        self.rows = 0
        self._origin = 0  # the id that would stand in slot 0
        self._lay_out(codec, stack)
        if self.capacity < stack:
            raise ValueError(
                f"{arena.size_bytes:,} bytes hold {self.capacity} rows of {codec.row_bytes:,} bytes, "
                f"fewer than a stack of {stack}"
            )
        self.columns = self.allocate_columns(self.capacity)

    def _lay_out(self, codec: Codec, stack: int) -> None:
        self.codec = codec
        self.stack = stack
        self.data = self.arena.rows(codec.row_bytes)

    @property
    def capacity(self) -> int:
        """Rows that the arena holds in the present codec."""
        return len(self.data)

    @property
    def oldest(self) -> int:
        """Id of the oldest row still held; equal to `appended` when empty."""
        return self.appended - self.rows

    def allocate_columns(self, capacity: int) -> Columns:
        """Columns for `capacity` rows, counted in the ledger."""

        def column(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
            return self.ledger.allocate(Line.COLUMNS, (capacity, *shape), dtype)

        return Columns(
            action=column(self.action_shape, self.action_dtype),
            reward=column((), np.float32),
            flags=column((), np.uint8),
            age=column((), np.uint8),
        )

    def slots(self, ids: Ids) -> Ids:
        """Where the rows `ids` stand in the arena and the columns."""
        return (ids - self._origin) % self.capacity

    def slot(self, row_id: int) -> int:
        """Where one row stands."""
        return (row_id - self._origin) % self.capacity

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Which of `ids` have not been overwritten."""
        return (ids >= self.oldest) & (ids < self.appended)

    # --- writing -------------------------------------------------------------------------------------------

    def append(
        self,
        observation: NDArray[Any],
        action: Any,
        reward: float,
        *,
        terminated: bool,
        truncated: bool,
    ) -> int:
        """Append the time step at which `action` was taken on `observation` `[*codec.shape]`; returns its id.

        A step that is truncated but not terminated must be followed by `append_final`.
        """
        if self._final_is_due():
            raise ValueError("the episode was truncated: append its final observation first")
        flags = TERMINATED * np.uint8(terminated) | TRUNCATED * np.uint8(truncated and not terminated)
        return self._write(observation, action, reward, flags)

    def append_final(self, observation: NDArray[Any]) -> int:
        """Append the observation that a truncated episode ended on; returns its id."""
        if not self._final_is_due():
            raise ValueError("only a truncated episode has a final observation of its own")
        return self._write(observation, 0, 0.0, FINAL)

    def continue_scene(self) -> None:
        """Let the scene go on: stacks of the next episode's rows reach back into the one that has just terminated.

        Raises ValueError where no episode has.
        """
        if self.rows == 0 or not self._newest_flags() & TERMINATED:
            raise ValueError("a scene goes on only where an episode has just terminated")
        self.columns.flags[self.slot(self.appended - 1)] |= CONTINUED

    def interrupt(self, observation: NDArray[Any]) -> int | None:
        """End the running scene, and its episode as one truncated with `observation`; returns that final row's id.

        None where no episode is running.
        """
        if self._newest_flags() & (TERMINATED | FINAL):
            if self.rows:
                self.columns.flags[self.slot(self.appended - 1)] &= ~CONTINUED
            return None
        self.columns.flags[self.slot(self.appended - 1)] |= TRUNCATED
        return self.append_final(observation)

    def _newest_flags(self) -> int:
        if self.rows == 0:
            return int(TERMINATED)
        return int(self.columns.flags[self.slot(self.appended - 1)])

    def _final_is_due(self) -> bool:
        return bool(self._newest_flags() & TRUNCATED)

    def _next_age(self) -> int:
        flags = self._newest_flags()
        if flags & (TERMINATED | FINAL) and not flags & CONTINUED:
            return 0
        return min(int(self.columns.age[self.slot(self.appended - 1)]) + 1, MAX_STACK)

    def _write(self, observation: NDArray[Any], action: Any, reward: float, flags: np.uint8) -> int:
        if observation.shape != self.codec.shape or observation.dtype != self.codec.dtype:
            raise ValueError(
                f"a row takes {self.codec.dtype} {self.codec.shape}, not {observation.dtype} {observation.shape}"
            )
        age = self._next_age()
        slot = self.slot(self.appended)
        self.codec.encode(observation[None], self.data[slot : slot + 1])
        self.columns.action[slot] = action
        self.columns.reward[slot] = reward
        self.columns.flags[slot] = flags
        self.columns.age[slot] = age
        self.appended += 1
        self.rows = min(self.rows + 1, self.capacity)
        return self.appended - 1

    # --- reading -------------------------------------------------------------------------------------------

    def stack_is_whole(self, ids: Ids, spare_rows: int = 0) -> NDArray[np.bool_]:
        """Which rows have every frame of their stack; the oldest rows of a wrapped ring have lost theirs.

        With `spare_rows`, which of them still have it once so many more rows were appended.
        """
        reach = np.minimum(self.columns.age[self.slots(ids)], self.stack - 1)
        return ids - reach >= self.oldest + max(0, self.rows + spare_rows - self.capacity)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Of one decoded observation: `(stack * channels, h, w)` of frames, `(N, L)` of latents."""
        return self.codec.observation_shape(self.stack)

    def gather(self, ids: Ids, views: Views, out: NDArray[Any]) -> None:
        """Decode the observations at `ids` `[B]` under `views` `[B, …]` to `out` `[B, *observation_shape]`.

        A stack's oldest frame comes first, and frames before a scene's first are zero. The caller asks only for
        rows whose stack is whole.
        """
        rows = out.reshape(len(ids), self.stack, *self.codec.view_shape)
        back = np.arange(self.stack - 1, -1, -1)
        self.codec.gather(self.data, self.slots(ids[:, None] - back), views, rows)
        before_first = back > self.columns.age[self.slots(ids)][:, None]
        if before_first.any():
            rows[before_first] = 0

    # --- conversion and resumption --------------------------------------------------------------------------

    def adopt(self, codec: Codec, columns: Columns, rows: int) -> None:
        """Take on the layout that a conversion left behind: the newest `rows` rows in slots 0, 1, …."""
        self.ledger.release(Line.COLUMNS, *self.columns.arrays())
        self._lay_out(codec, stack=1)
        self.columns = columns
        self.rows = rows
        self._origin = self.appended - rows

    def reload(self, layout: "Layout", tensors: TensorFile) -> None:
        """Take on the newest rows that `tensors` hold and this store has room for, in place of its own.

        Into a store of as many slots each row comes back to its own; else the oldest kept row stands in slot 0. Rows
        go straight from the disk to the arena. Raises CorruptFileError and OSError, after which the store is unusable.
        """
        kept = min(layout.rows, self.capacity)
        self.appended, self.rows = layout.appended, kept
        same = layout.capacity == self.capacity
        self._origin = self.oldest - (layout.first_slot if same else 0)
        begin = self.oldest
        while begin < self.appended:
            source, target = layout.slot(begin), self.slot(begin)
            count = min(self.appended - begin, layout.capacity - source, self.capacity - target)
            tensors.read_rows_into("rows", source, self.data[target : target + count])
            for name, column in vars(self.columns).items():
                tensors.read_rows_into(name, source, column[target : target + count])
            begin += count

    @property
    def layout(self) -> "Layout":
        """Where the rows stand."""
        return Layout(self.appended, self.rows, self.capacity, self.slot(self.oldest))


@dataclass(frozen=True)
class Layout:
    """Where the rows of a store stand. Raises ValueError for what no store can have."""

    appended: int
    rows: int
    capacity: int
    first_slot: int  # of the oldest row

    def __post_init__(self) -> None:
        numbers = (self.appended, self.rows, self.capacity, self.first_slot)
        if any(type(number) is not int for number in numbers):
            raise ValueError(f"a layout is of whole numbers, not {numbers}")
        wraps = self.first_slot + self.rows > self.capacity
        if not (
            0 <= self.rows <= min(self.appended, self.capacity)
            and self.appended <= APPENDED_MAX
            and 0 <= self.first_slot < self.capacity
            and not (wraps and self.rows < self.capacity)
        ):
            raise ValueError(
                f"no store has {self.rows} rows of {self.capacity}, the first in slot {self.first_slot}, "
                f"after {self.appended}"
            )

    def slot(self, row_id: int) -> int:
        """Where the row stands."""
        return (self.first_slot + row_id - (self.appended - self.rows)) % self.capacity
