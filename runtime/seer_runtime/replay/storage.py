"""How a store keeps observations in the arena: the protocol, and the storage of rows of a fixed size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable import TensorFile
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import Codec, Views
from seer_runtime.system.state import State

Ids = NDArray[np.int64]

APPENDED_MAX = 2**53
"""Limit on the rows ever appended, so that no count can overflow."""


class Storage(Protocol):
    """Keeps the observations of rows, encoded by a codec, in an arena."""

    arena: Arena
    codec: Codec

    @property
    def capacity(self) -> int:
        """The number of slots, one for each row that can be held at a time."""

    def slots(self, ids: Ids) -> Ids:
        """Return the slots of the rows `ids`."""

    def slot(self, row_id: int) -> int:
        """Return the slot of one row."""

    def write(self, row_id: int, observation: NDArray[Any]) -> int:
        """Store the observation `[*codec.shape]` of the next row. Return the id of the oldest row that is still held.

        If fewer rows are held, an id below the first one is returned.
        """

    def overwritten_by(self, spare_rows: int, rows: int) -> int:
        """Return how many of the oldest of `rows` rows cannot be read after `spare_rows` more rows are written."""

    def gather(self, ids: Ids, views: Views, out: NDArray[Any]) -> None:
        """Decode `views` `[B, …]` of the rows `ids` `[B, S]` to `out` `[B, S, *codec.view_shape]`."""

    def bytes_a_row(self) -> float | None:
        """Return the mean bytes of a row in the arena, or None if no row is there."""

    def layout(self, appended: int, rows: int) -> "Layout":
        """Return the order in which the newest `rows` rows are saved."""

    def state(self, appended: int, rows: int) -> State:
        """Return what a checkpoint holds of the observations. The arrays are the storage's own memory where possible.

        The names of the arrays do not occur among the columns of a store.
        """

    def reload(self, layout: "Layout", values: Any, tensors: TensorFile) -> int:
        """Read the newest observations of a `state` that fit from the disk into the arena. Return how many fit.

        `values` are those of the state. Raises ValueError for a state that does not match, CorruptFileError and
        OSError. The storage is unusable afterwards.
        """


@dataclass(frozen=True)
class Layout:
    """The order of saved rows: a ring of `capacity` slots. Raises ValueError for an impossible layout."""

    appended: int
    rows: int
    capacity: int
    first_slot: int  # of the oldest row

    def __post_init__(self) -> None:
        numbers = (self.appended, self.rows, self.capacity, self.first_slot)
        if any(type(number) is not int for number in numbers):
            raise ValueError(f"a layout must consist of integers, not {numbers}")
        wraps = self.first_slot + self.rows > self.capacity
        if not (
            0 <= self.rows <= min(self.appended, self.capacity)
            and self.appended <= APPENDED_MAX
            and 0 <= self.first_slot < self.capacity
            and not (wraps and self.rows < self.capacity)
        ):
            raise ValueError(
                f"impossible layout: {self.rows} rows in {self.capacity} slots, the oldest in slot {self.first_slot}, "
                f"{self.appended} rows appended"
            )

    def slot(self, row_id: int) -> int:
        """Return the slot of the row `row_id`."""
        return (self.first_slot + row_id - (self.appended - self.rows)) % self.capacity

    def runs(self, first_id: int, slot: Callable[[int], int], capacity: int) -> Iterator[tuple[int, int, int]]:
        """Yield the rows from `first_id` on in runs that are consecutive here and in another ring.

        Each is the first slot here, the first slot there and the number of rows. `slot` returns the slot of a row in
        the other ring, which has `capacity` slots.
        """
        while first_id < self.appended:
            source, target = self.slot(first_id), slot(first_id)
            count = min(self.appended - first_id, self.capacity - source, capacity - target)
            yield source, target, count
            first_id += count


ROWS = "rows"
"""The name of the array of rows of a fixed size in a state."""


class FixedRows:
    """A ring of rows of `codec.row_bytes` bytes each. The row of id i is in slot (i - origin) % capacity."""

    def __init__(self, arena: Arena, codec: Codec, origin: int = 0) -> None:
        self.arena = arena
        self.codec = codec
        self.data = arena.rows(codec.row_bytes)  # uint8 [capacity, row_bytes]
        self._origin = origin

    @property
    def capacity(self) -> int:
        """The number of rows that fit into the arena."""
        return len(self.data)

    def slots(self, ids: Ids) -> Ids:
        """Return the slots of the rows `ids`, which are also their indices in `data`."""
        return (ids - self._origin) % self.capacity

    def slot(self, row_id: int) -> int:
        """Return the slot of one row."""
        return (row_id - self._origin) % self.capacity

    def write(self, row_id: int, observation: NDArray[Any]) -> int:
        """Encode the observation to the row's slot. Return the id of the oldest row that fits."""
        slot = self.slot(row_id)
        self.codec.encode(observation[None], self.data[slot : slot + 1])
        return row_id + 1 - self.capacity

    def overwritten_by(self, spare_rows: int, rows: int) -> int:
        """Return how many rows the ring has to give up for `spare_rows` more."""
        return max(0, rows + spare_rows - self.capacity)

    def gather(self, ids: Ids, views: Views, out: NDArray[Any]) -> None:
        """Decode the rows `ids` `[B, S]` to `out`."""
        self.codec.gather(self.data, self.slots(ids), views, out)

    def bytes_a_row(self) -> float | None:
        """Return the size of a row."""
        return float(self.codec.row_bytes)

    def layout(self, appended: int, rows: int) -> Layout:
        """Return the order of the slots."""
        return Layout(appended, rows, self.capacity, self.slot(appended - rows))

    def state(self, appended: int, rows: int) -> State:
        """Return the rows in the order of the slots."""
        return State(arrays={ROWS: self.data[:rows]})

    def reload(self, layout: Layout, values: Any, tensors: TensorFile) -> int:
        """Read the newest rows that fit.

        If the capacity is unchanged, each row returns to its former slot. Otherwise the oldest row goes to slot 0.
        """
        if tensors.shapes.get(ROWS) != (layout.rows, self.codec.row_bytes):
            raise ValueError(f"its rows are {tensors.shapes.get(ROWS)}, not {(layout.rows, self.codec.row_bytes)}")
        kept = min(layout.rows, self.capacity)
        begin = layout.appended - kept
        self._origin = begin - (layout.first_slot if layout.capacity == self.capacity else 0)
        for source, target, count in layout.runs(begin, self.slot, self.capacity):
            tensors.read_rows_into(ROWS, source, self.data[target : target + count])
        return kept
