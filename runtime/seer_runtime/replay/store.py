"""The row store: a ring buffer in which one row is one time step, stored as a frame or as latents.

Returns are summed over an episode. Frame stacks look back through a scene. A scene is usually one episode. It spans
several episodes if the same game continues after an episode ends (`RowStore.continue_scene`).

The id of a row is the number of rows appended before it. Ids stay valid when the ring wraps around and when the store
is converted. So an old id still names the same time step, or `holds` reports that the row is gone.

The store knows ids, columns and scenes. A `Storage` keeps the observations in the arena.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from seer_runtime.durable import TensorFile
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import Codec, Views
from seer_runtime.replay.storage import Ids, Layout, Storage
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State

TERMINATED = np.uint8(1)
TRUNCATED = np.uint8(2)
FINAL = np.uint8(4)
"""The row holds the last observation of a truncated episode. Windows bootstrap from it; it has no action."""
CONTINUED = np.uint8(8)
"""The row terminated its episode, but its scene continues with the next row."""
KNOWN_FLAGS = TERMINATED | TRUNCATED | FINAL | CONTINUED

MAX_STACK = 255


@dataclass
class Columns:
    """The data of the rows beside the observations, with one array element per slot."""

    action: NDArray[Any]  # [capacity, *action_shape]
    reward: NDArray[np.float32]  # [capacity]
    flags: NDArray[np.uint8]  # [capacity]
    age: NDArray[np.uint8]  # [capacity], rows since the scene began, at most MAX_STACK

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """Return all columns in a fixed order."""
        return (self.action, self.reward, self.flags, self.age)


def column_bytes(action_shape: tuple[int, ...] = (), action_dtype: DTypeLike = np.int32) -> int:
    """Return the size of the columns of one row in bytes."""
    return math.prod(action_shape) * np.dtype(action_dtype).itemsize + 6


class RowStore:
    """A ring buffer of rows, whose observations are in `storage`.

    `stack` is the number of consecutive rows that form one observation: S for frames, and 1 for latents, because a
    latent encodes its whole stack. Raises ValueError if `stack` is not from 1 to `MAX_STACK` or the storage holds fewer
    than `stack` rows, and BudgetError if the ledger has no room for the columns.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        stack: int,
        ledger: Ledger,
        action_shape: tuple[int, ...] = (),
        action_dtype: DTypeLike = np.int32,
    ) -> None:
        if not 1 <= stack <= MAX_STACK:
            raise ValueError(f"a stack of {stack} frames is not from 1 to {MAX_STACK}")
        if storage.capacity < stack:
            raise ValueError(
                f"an arena of {storage.arena.size_bytes:,} bytes holds {storage.capacity} rows of "
                f"{storage.codec.row_bytes:,} bytes, fewer than a stack of {stack}"
            )
        self.storage = storage
        self.stack = stack
        self.ledger = ledger
        self.action_shape = action_shape
        self.action_dtype = np.dtype(action_dtype)
        self.appended = 0
        self.rows = 0
        self.columns = self.allocate_columns(self.capacity)

    @property
    def arena(self) -> Arena:
        """The memory of the observations."""
        return self.storage.arena

    @property
    def codec(self) -> Codec:
        """The codec of the rows."""
        return self.storage.codec

    @property
    def capacity(self) -> int:
        """The largest number of rows that can be held at a time."""
        return self.storage.capacity

    @property
    def bytes_a_row(self) -> float | None:
        """The mean bytes of a row in the arena, or None if compressed rows are only in the open block so far."""
        return self.storage.bytes_a_row()

    @property
    def oldest(self) -> int:
        """The id of the oldest row in the store, or `appended` if the store is empty."""
        return self.appended - self.rows

    def allocate_columns(self, capacity: int) -> Columns:
        """Allocate columns for `capacity` rows. Raises BudgetError if the ledger has no room."""

        def column(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
            return self.ledger.allocate(Line.COLUMNS, (capacity, *shape), dtype)

        return Columns(
            action=column(self.action_shape, self.action_dtype),
            reward=column((), np.float32),
            flags=column((), np.uint8),
            age=column((), np.uint8),
        )

    def slots(self, ids: Ids) -> Ids:
        """Return the slots of the rows `ids` in the columns."""
        return self.storage.slots(ids)

    def slot(self, row_id: int) -> int:
        """Return the slot of one row."""
        return self.storage.slot(row_id)

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Return which of the rows `ids` `[B]` are in the store, bool `[B]`."""
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
        """Append a time step: `action` was chosen on `observation` `[*codec.shape]`. Return the id of the row.

        After a step that is truncated but not terminated, call `append_final`. Raises ValueError if that call is
        missing, or for an observation of another shape or dtype.
        """
        if self._final_is_due():
            raise ValueError("the episode was truncated: append its final observation first")
        flags = TERMINATED * np.uint8(terminated) | TRUNCATED * np.uint8(truncated and not terminated)
        return self._write(observation, action, reward, flags)

    def append_final(self, observation: NDArray[Any]) -> int:
        """Append the final observation of a truncated episode. Return the id of the row.

        Raises ValueError if the newest step was not truncated.
        """
        if not self._final_is_due():
            raise ValueError("only a truncated episode takes a final observation")
        return self._write(observation, 0, 0.0, FINAL)

    def continue_scene(self) -> None:
        """Continue the scene: frame stacks of the next episode include frames of the one that just terminated.

        Raises ValueError if the newest row did not terminate an episode.
        """
        if self.rows == 0 or not self._newest_flags() & TERMINATED:
            raise ValueError("a scene can continue only after an episode has terminated")
        self.columns.flags[self.slot(self.appended - 1)] |= CONTINUED

    def interrupt(self, observation: NDArray[Any]) -> int | None:
        """End the running scene. If an episode is running, end it as truncated with the final `observation`.

        Return the id of the final row, or None if no episode is running. Raises ValueError for an observation of
        another shape or dtype.
        """
        self._check(observation)
        if self._newest_flags() & (TERMINATED | FINAL):
            if self.rows:
                self.columns.flags[self.slot(self.appended - 1)] &= ~CONTINUED
            return None
        self.columns.flags[self.slot(self.appended - 1)] |= TRUNCATED
        return self.append_final(observation)

    @property
    def between_scenes(self) -> bool:
        """Whether the next row begins a scene: no episode is running, and none continues the scene of the last one."""
        flags = self._newest_flags()
        return bool(flags & (TERMINATED | FINAL)) and not flags & CONTINUED

    def _newest_flags(self) -> int:
        if self.rows == 0:
            return int(TERMINATED)
        return int(self.columns.flags[self.slot(self.appended - 1)])

    def _final_is_due(self) -> bool:
        return bool(self._newest_flags() & TRUNCATED)

    def _next_age(self) -> int:
        if self.between_scenes:
            return 0
        return min(int(self.columns.age[self.slot(self.appended - 1)]) + 1, MAX_STACK)

    def _check(self, observation: NDArray[Any]) -> None:
        if observation.shape != self.codec.shape or observation.dtype != self.codec.dtype:
            raise ValueError(
                f"expected an observation of {self.codec.dtype} {self.codec.shape}, "
                f"got {observation.dtype} {observation.shape}"
            )

    def _write(self, observation: NDArray[Any], action: Any, reward: float, flags: np.uint8) -> int:
        self._check(observation)
        age = self._next_age()
        slot = self.slot(self.appended)
        oldest = max(self.oldest, self.storage.write(self.appended, observation))
        self.columns.action[slot] = action
        self.columns.reward[slot] = reward
        self.columns.flags[slot] = flags
        self.columns.age[slot] = age
        self.appended += 1
        self.rows = self.appended - oldest
        return self.appended - 1

    # --- reading -------------------------------------------------------------------------------------------

    def stack_is_whole(self, ids: Ids, spare_rows: int = 0) -> NDArray[np.bool_]:
        """Return which of the rows `ids` `[B]` have all frames of their stack in the store, bool `[B]`.

        The oldest rows of a wrapped ring do not. With `spare_rows`, return which ones still will after that many more
        rows are appended.
        """
        reach = np.minimum(self.columns.age[self.slots(ids)], self.stack - 1)
        return ids - reach >= self.oldest + self.storage.overwritten_by(spare_rows, self.rows)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one decoded observation: `(stack * channels, h, w)` for frames, `(N, L)` for latents."""
        return self.codec.observation_shape(self.stack)

    def gather(self, ids: Ids, views: Views, out: NDArray[Any]) -> None:
        """Decode the observations of the rows `ids` `[B]` under `views` `[B, …]` to `out` `[B, *observation_shape]`.

        The oldest frame of a stack comes first. Frames before the first of a scene are zero. All rows must have whole
        stacks (see `stack_is_whole`).
        """
        rows = out.reshape(len(ids), self.stack, *self.codec.view_shape)
        back = np.arange(self.stack - 1, -1, -1)
        stacks = ids[:, None] - back
        before_first = back > self.columns.age[self.slots(ids)][:, None]
        has_blanks = before_first.any()
        if has_blanks:
            # The rows before the first may not be held.
            stacks = np.where(before_first, ids[:, None], stacks)
        self.storage.gather(stacks, views, rows)
        if has_blanks:
            rows[before_first] = 0

    # --- conversion and restoring ---------------------------------------------------------------------------

    def adopt(self, storage: Storage, columns: Columns, rows: int) -> None:
        """Switch to the result of a conversion to latents: the newest `rows` rows in `storage`."""
        if columns is not self.columns:
            self.ledger.release(Line.COLUMNS, *self.columns.arrays())
        self.storage = storage
        self.stack = 1
        self.columns = columns
        self.rows = rows

    @property
    def layout(self) -> Layout:
        """The order in which the rows are saved."""
        return self.storage.layout(self.appended, self.rows)

    def state(self) -> State:
        """Return the values and arrays of the storage, and the columns in the order of `layout`.

        The arrays are the store's own memory where they are in that order.
        """
        state = self.storage.state(self.appended, self.rows)
        return State(state.values, {**state.arrays, **self.held_columns()})

    def held_columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of the held rows in the order of `layout`: views where they are in that order."""
        start = self.slot(self.oldest - self.layout.first_slot)
        return {name: _ring_slice(column, start, self.rows) for name, column in vars(self.columns).items()}

    def reload(self, layout: Layout, values: Any, tensors: TensorFile) -> None:
        """Replace the rows by the newest rows of a `state` that fit, read directly from the disk.

        Raises ValueError for a state that does not match, CorruptFileError and OSError; the store is unusable
        afterwards.
        """
        self.rows = self.storage.reload(layout, values, tensors)
        self.appended = layout.appended
        for source, target, count in layout.runs(self.oldest, self.slot, self.capacity):
            for name, column in vars(self.columns).items():
                tensors.read_rows_into(name, source, column[target : target + count])


def _ring_slice(ring: NDArray[Any], start: int, count: int) -> NDArray[Any]:
    """Return `count` elements of `ring` from `start` on: a view, or a copy if they wrap around."""
    if start + count <= len(ring):
        return ring[start : start + count]
    return np.concatenate([ring[start:], ring[: start + count - len(ring)]])
