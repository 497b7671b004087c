"""The replay: samples n-step batches from a row store, converts it at the freeze, and saves and restores its state."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable import TensorFile
from seer_runtime.replay.blocks import DICTIONARY, BlockRows
from seer_runtime.replay.codecs import Codec, Views
from seer_runtime.replay.convert import Conversion, Encode, Progress
from seer_runtime.replay.convert_blocks import BlockConversion
from seer_runtime.replay.samplers import Sampler
from seer_runtime.replay.storage import Ids, Layout
from seer_runtime.replay.store import CONTINUED, KNOWN_FLAGS, TERMINATED, RowStore
from seer_runtime.replay.windows import Windows, n_step_windows
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State, StateError, generator_state, restore_generator

MAX_PROPOSALS = 100
SCAN_ROWS = 4096
POSITIVES = "positive_views"
BATCH_ARRAYS = ("row_ids", "weights", "views", "next_views", POSITIVES)
CODEC = "codec."
"""Prefix of the names of the codec's own arrays in the state of a replay."""
SLICE_BYTES = 2_100_000
"""Bytes of a batch that are decoded at a time: 33 stacks of three 84x84 RGB crops."""


def slice_rows(batch_size: int, observation_bytes: int) -> int:
    """Return the number of observations that are decoded at a time."""
    return max(1, min(batch_size, SLICE_BYTES // observation_bytes))


class NothingToSampleError(Exception):
    """Raised if no row of the replay can start a window yet."""


class Observations:
    """A sequence of observations of a replay, each under one view, that are decoded slice by slice.

    All slices share one buffer of the replay. So a batch of large frames is never in memory as a whole.
    """

    def __init__(self, replay: "Replay", ids: Ids, views: Views) -> None:
        self._replay = replay
        self._ids = ids
        self.views = views

    def __len__(self) -> int:
        return len(self._ids)

    def slices(self, at_most: int | None = None) -> Iterator[NDArray[Any]]:
        """Yield frame stacks, uint8 `[b, C, h, w]`, or latents, float32 `[b, N, L]`, with b up to `at_most`.

        The number of slices is as small as possible, and their lengths differ by at most one. A slice is valid until
        the next one is decoded, from these or any other observations of the replay.
        """
        buffer = self._replay.slice_buffer
        most = len(buffer) if at_most is None else min(len(buffer), at_most)
        pieces = -(-len(self) // most)
        for piece in range(pieces):
            chosen = slice(len(self) * piece // pieces, len(self) * (piece + 1) // pieces)
            ids = self._ids[chosen]
            self._replay.store.gather(ids, self.views[chosen], buffer[: len(ids)])
            yield buffer[: len(ids)]


@dataclass(frozen=True)
class Batch:
    """B sampled windows."""

    observations: Observations
    actions: NDArray[Any]  # [B, *action_shape]
    returns: NDArray[np.float32]  # [B], n-step returns
    discounts: NDArray[np.float32]  # [B], gamma^m (1 - terminated)
    next_observations: Observations  # the observations to bootstrap from
    weights: NDArray[np.float32]  # [B], importance-sampling weights
    row_ids: Ids  # [B]
    positives: Observations | None = None  # `observations` under other random views, for a contrastive loss


class Replay:
    """Samples n-step batches from a row store and converts the store at the freeze."""

    def __init__(
        self,
        store: RowStore,
        sampler: Sampler,
        *,
        batch_size: int,
        n_step: int,
        gamma: float,
        rng: np.random.Generator,
        ledger: Ledger,
        spare_rows: int = 0,
    ) -> None:
        """Allocate the slice buffer. Raises BudgetError if the ledger has no room.

        Up to `spare_rows` rows may be appended while a batch is in use. Rows that they would overwrite are not sampled.
        """
        self.store = store
        self.sampler = sampler
        self.spare_rows = spare_rows
        self.batch_size = batch_size
        self.n_step = n_step
        self.gamma = gamma
        self._rng = rng
        self._ledger = ledger
        self.slice_buffer = self._allocate_slice(store.codec, store.stack)

    def _allocate_slice(self, codec: Codec, stack: int) -> NDArray[Any]:
        shape = codec.observation_shape(stack)
        rows = slice_rows(self.batch_size, math.prod(shape) * codec.dtype.itemsize)
        return self._ledger.allocate(Line.WORKSPACE, (rows, *shape), codec.dtype)

    def append(
        self, observation: NDArray[Any], action: Any, reward: float, *, terminated: bool, truncated: bool
    ) -> None:
        """Append one time step (see `RowStore.append`)."""
        row_id = self.store.append(observation, action, reward, terminated=terminated, truncated=truncated)
        self.sampler.appended(row_id)

    def append_final(self, observation: NDArray[Any]) -> None:
        """Append the final observation of a truncated episode (see `RowStore.append_final`)."""
        self.sampler.appended(self.store.append_final(observation))

    def continue_scene(self) -> None:
        """Let the frame stacks of the next episode include frames of the one that just terminated (see `RowStore`)."""
        self.store.continue_scene()

    def interrupt(self, observation: NDArray[Any]) -> None:
        """End the running scene and episode, if any, as truncated with the final `observation` (see `RowStore`)."""
        final = self.store.interrupt(observation)
        if final is not None:
            self.sampler.appended(final)

    def sample(self, progress: float = 0.0, *, positives: bool = False) -> Batch:
        """Return a batch of windows, sampled with replacement. `progress` is the elapsed fraction of the run.

        The observations of the batch are valid until more than `spare_rows` rows are appended. Raises
        NothingToSampleError if no row can start a window.
        """
        ids, windows = self._draw(self.batch_size)
        views = self.draw_views(len(ids))
        next_views = views if self.store.codec.same_view_for_next else self.draw_views(len(ids))
        positive_views = self.draw_views(len(ids)) if positives else None
        return self._batch(ids, windows, self.sampler.weights(ids, progress), views, next_views, positive_views)

    def _batch(
        self,
        ids: Ids,
        windows: Windows,
        weights: NDArray[np.float32],
        views: Views,
        next_views: Views,
        positive_views: Views | None,
    ) -> Batch:
        return Batch(
            observations=Observations(self, ids, views),
            actions=self.store.columns.action[self.store.slots(ids)],
            returns=windows.returns,
            discounts=windows.discounts,
            next_observations=Observations(self, windows.bootstrap_ids, next_views),
            weights=weights,
            row_ids=ids,
            positives=None if positive_views is None else Observations(self, ids, positive_views),
        )

    def draw_views(self, count: int) -> Views:
        """Return random views for `count` observations."""
        return self.store.codec.draw(self._rng, count)

    def observations(self, ids: Ids) -> Observations:
        """Return the observations of the rows `ids` `[B]` under the default view. Does not advance the generator."""
        return Observations(self, ids, self.store.codec.plain(len(ids)))

    def _windows(self, ids: Ids) -> Windows:
        return n_step_windows(self.store, ids, self.n_step, self.gamma, self.spare_rows)

    def draw(self, count: int) -> Ids:
        """Return the ids of `count` rows that can start a window, in the proportions of the sampler."""
        return self._draw(count)[0]

    def _draw(self, count: int) -> tuple[Ids, Windows]:
        if self.store.rows == 0:
            raise NothingToSampleError("the replay is empty")
        found: list[tuple[Ids, Windows]] = []
        missing = count
        for _ in range(MAX_PROPOSALS):
            proposed = self.sampler.propose(self._rng, missing)
            windows = self._windows(proposed)
            valid = windows.valid
            if not valid.all():
                proposed, windows = proposed[valid], windows.select(valid)
            found.append((proposed, windows))
            missing -= len(proposed)
            if not missing:
                break
        else:
            drawn = self._draw_from_all(missing)
            found.append((drawn, self._windows(drawn)))
        if len(found) == 1:
            return found[0]
        ids, parts = zip(*found, strict=True)
        return np.concatenate(ids), Windows.concatenate(parts)

    def _draw_from_all(self, count: int) -> Ids:
        """Sample from a scan of all rows. This is slow, and only used if hardly any row can start a window."""
        store = self.store
        chunks = (
            np.arange(begin, min(begin + SCAN_ROWS, store.appended))
            for begin in range(store.oldest, store.appended, SCAN_ROWS)
        )
        ids = np.concatenate([chunk[self._windows(chunk).valid] for chunk in chunks])
        if len(ids) == 0:
            raise NothingToSampleError(f"no window of {self.n_step} steps among {self.store.rows} rows")
        priorities = self.sampler.priorities(ids)
        return self._rng.choice(ids, count, p=priorities / priorities.sum())

    def update_priorities(self, ids: Ids, priorities: NDArray[np.float32]) -> None:
        """Set the priorities `[B]` of the rows `ids` `[B]` after an update (see `Sampler.update`)."""
        self.sampler.update(ids, priorities)

    def reserve(self, codec: Codec) -> "ReplayConversion":
        """Allocate the memory for a conversion to rows of `codec` (see `Conversion`)."""
        return ReplayConversion(self, codec)

    def convert(self, codec: Codec, encode: Encode) -> int:
        """Convert frames to latents in place. Return the number of rows kept."""
        return self.reserve(codec).run(encode)

    # --- a pending batch -------------------------------------------------------------------------------------

    def batch_state(self, batch: Batch) -> State:
        """Return the rows, views and weights of `batch`, from which `restore_batch` rebuilds it."""
        arrays: dict[str, NDArray[Any]] = {"row_ids": batch.row_ids, "weights": batch.weights}
        arrays["views"] = batch.observations.views
        arrays["next_views"] = batch.next_observations.views
        if batch.positives is not None:
            arrays[POSITIVES] = batch.positives.views
        return State(arrays=arrays)

    def restore_batch(self, state: State) -> Batch | None:
        """Rebuild a batch from its `batch_state`, after the replay itself was restored.

        Return None if the restored replay no longer holds all rows of the batch. Raises StateError if the state does
        not match this replay.
        """
        arrays = state.arrays
        drawn = {name: array for name, array in arrays.items() if name not in ("row_ids", "weights")}
        expected = self.store.codec.plain(self.batch_size)
        if not (
            {"row_ids", "weights", "views", "next_views"} <= arrays.keys() <= {*BATCH_ARRAYS}
            and _like(arrays["row_ids"], np.empty(self.batch_size, np.int64))
            and _like(arrays["weights"], np.empty(self.batch_size, np.float32))
            and all(_like(views, expected) and self.store.codec.has_views(views) for views in drawn.values())
            and np.isfinite(arrays["weights"]).all()
        ):
            raise StateError("the pending batch does not match the replay")
        ids = arrays["row_ids"]
        windows = self._windows(ids) if self.store.holds(ids).all() else None
        if windows is None or not windows.valid.all():
            return None
        return self._batch(ids, windows, arrays["weights"], drawn["views"], drawn["next_views"], drawn.get(POSITIVES))

    # --- state ---------------------------------------------------------------------------------------------

    def state(self) -> State:
        """Return the layout, the codec, the random generator, the rows in slot order, and the priorities by age.

        The arrays are the replay's own memory, except for the priorities, which start at the oldest row.
        """
        store, codec = self.store, self.store.codec.state()
        rows = store.state()
        values = {
            "layout": asdict(store.layout),
            "codec": store.codec.name,
            "codec_counts": codec.values,
            "largest_priority": self.sampler.largest,
            "rng": generator_state(self._rng),
            **rows.values,
        }
        ids = np.arange(store.oldest, store.appended)
        own = {CODEC + name: array for name, array in codec.arrays.items()}
        return State(values, {"priorities": self.sampler.priorities(ids), **rows.arrays, **own})

    def restore(self, values: Mapping[str, Any], tensors: TensorFile) -> int:
        """Restore the values and arrays of a `state`. Return how many of the oldest rows did not fit.

        Raises StateError if the state does not match this replay, CorruptFileError if the file is damaged, and OSError.
        """
        store = self.store
        try:
            layout, codec, largest = Layout(**values["layout"]), values["codec"], float(values["largest_priority"])
            if codec != store.codec.name:
                raise ValueError(f"its codec is {codec}, not {store.codec.name}")
            own = self.state().arrays
            # States of blocks in format 2 have no dictionary.
            if not own.keys() - {DICTIONARY} <= tensors.shapes.keys() <= own.keys():
                raise ValueError(f"its tensors are {sorted(tensors.shapes)}, not {sorted(own)}")
            for name in {"priorities", *vars(store.columns)}:
                wanted = (layout.rows, *own[name].shape[1:])
                if tensors.shapes[name] != wanted:
                    raise ValueError(f"its tensor {name} is {tensors.shapes[name]}, not {wanted}")
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not the state of this replay: {error}") from error
        restore_generator(self._rng, values.get("rng"))
        self._restore_codec(values, tensors)
        try:
            store.reload(layout, values, tensors)
        except ValueError as error:
            raise StateError(f"not the state of this replay: {error}") from error
        columns = store.held_columns()
        reward, flags = columns["reward"], columns["flags"]
        strays = (flags & ~KNOWN_FLAGS).any() or (flags[(flags & TERMINATED) == 0] & CONTINUED).any()
        if not np.isfinite(reward).all() or strays:
            raise StateError("the replay contains invalid rewards or flags")
        priorities = np.empty(store.rows)
        tensors.read_rows_into("priorities", layout.rows - store.rows, priorities)
        if not (math.isfinite(largest) and np.isfinite(priorities).all() and (priorities >= 0).all()):
            raise StateError("priorities must be finite and not negative")
        self.sampler.largest = largest
        self.sampler.rebuild(np.arange(store.oldest, store.appended), priorities)
        return layout.rows - store.rows

    def _restore_codec(self, values: Mapping[str, Any], tensors: TensorFile) -> None:
        codec = self.store.codec
        try:
            for name, array in codec.state().arrays.items():
                tensors.read_into(CODEC + name, array)
            codec.restore(values.get("codec_counts", {}))
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"not the state of this codec: {error}") from error


class ReplayConversion:
    """A conversion of a replay with all memory allocated. Call either `run` or `cancel`."""

    def __init__(self, replay: Replay, codec: Codec) -> None:
        self._replay = replay
        with replay._ledger.all_or_nothing():
            self._slice = replay._allocate_slice(codec, stack=1)
            kind = BlockConversion if isinstance(replay.store.storage, BlockRows) else Conversion
            self._rows = kind(replay.store, codec, replay._rng, replay._ledger)

    def cancel(self) -> None:
        """Release the memory without converting."""
        self._rows.cancel()
        self._replay._ledger.release(Line.WORKSPACE, self._slice)

    def run(self, encode: Encode, progress: Progress | None = None) -> int:
        """Convert the rows and priorities. Return the number of rows kept (see `Conversion.run`)."""
        replay, moves = self._replay, self._rows.moves_rows
        ids = np.arange(self._rows.first if moves else replay.store.appended, replay.store.appended)
        priorities = replay.sampler.priorities(ids)
        kept = self._rows.run(encode, progress)
        if moves:
            replay.sampler.rebuild(ids, priorities)
        else:
            replay.sampler.forget()
        replay._ledger.release(Line.WORKSPACE, replay.slice_buffer)
        replay.slice_buffer = self._slice
        return kept


def _like(array: NDArray[Any], other: NDArray[Any]) -> bool:
    return array.shape == other.shape and array.dtype == other.dtype
