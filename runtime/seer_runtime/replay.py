"""The replay: a row store, a sampler and n-step windows, giving batches for a head."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.codecs import FRAMES, Codec
from seer_runtime.convert import Conversion, Encode
from seer_runtime.ledger import Ledger, Line
from seer_runtime.samplers import Sampler
from seer_runtime.store import Ids, RowStore
from seer_runtime.windows import Windows, n_step_windows

MAX_PROPOSALS = 100
SCAN_ROWS = 4096


class NothingToSampleError(Exception):
    """No row of the replay can start a window yet."""


@dataclass(frozen=True)
class Batch:
    """B sampled windows. Observations are frame stacks `[B, S, *frame]` uint8, or latents `[B, *latent]` float32.

    The arrays of observations are the replay's own and are overwritten by the next `sample`.
    """

    observations: NDArray[Any]
    actions: NDArray[Any]  # [B, *action_shape]
    returns: NDArray[np.float32]  # [B], n-step
    discounts: NDArray[np.float32]  # [B], gamma^m (1 - terminated)
    next_observations: NDArray[Any]  # of the rows that are bootstrapped from
    weights: NDArray[np.float32]  # [B], importance sampling
    row_ids: Ids  # [B]


class Replay:
    """Samples n-step batches of a row store and converts it at the freeze."""

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
    ) -> None:
        self.store = store
        self.sampler = sampler
        self.batch_size = batch_size
        self.n_step = n_step
        self.gamma = gamma
        self._rng = rng
        self._ledger = ledger
        self._gathered = self._allocate_gathered(store.codec, store.stack)

    def _allocate_gathered(self, codec: Codec, stack: int) -> NDArray[Any]:
        shape = (2 * self.batch_size, stack, *codec.shape)
        return self._ledger.allocate(Line.WORKSPACE, shape, codec.dtype)

    def append(
        self, observation: NDArray[Any], action: Any, reward: float, *, terminated: bool, truncated: bool
    ) -> None:
        """Append a time step (see `RowStore.append`)."""
        row_id = self.store.append(observation, action, reward, terminated=terminated, truncated=truncated)
        self.sampler.appended(row_id)

    def append_final(self, observation: NDArray[Any]) -> None:
        """Append the final observation of a truncated episode."""
        self.sampler.appended(self.store.append_final(observation))

    def sample(self, progress: float = 0.0) -> Batch:
        """A batch of windows, drawn with replacement; `progress` is the fraction of the run that is over.

        Raises NothingToSampleError while no row can start a window.
        """
        ids = self.draw(self.batch_size)
        windows = self._windows(ids)
        both = self.observations(np.concatenate([ids, windows.bootstrap_ids]))
        return Batch(
            observations=both[: self.batch_size],
            actions=self.store.columns.action[self.store.slots(ids)],
            returns=windows.returns,
            discounts=windows.discounts,
            next_observations=both[self.batch_size :],
            weights=self.sampler.weights(ids, progress),
            row_ids=ids,
        )

    def observations(self, ids: Ids) -> NDArray[Any]:
        """Observations at `ids`, at most 2 batches of them, in the replay's own memory until the next call."""
        out = self._gathered[: len(ids)]
        self.store.gather(ids, out)
        return out if self.store.codec.name == FRAMES else out[:, 0]

    def _windows(self, ids: Ids) -> Windows:
        return n_step_windows(self.store, ids, self.n_step, self.gamma)

    def draw(self, count: int) -> Ids:
        """Ids of `count` rows that can start a window, by the sampler's proportions."""
        if self.store.rows == 0:
            raise NothingToSampleError("the replay is empty")
        ids = np.empty(0, np.int64)
        for _ in range(MAX_PROPOSALS):
            proposed = self.sampler.propose(self._rng, count - len(ids))
            valid = self._windows(proposed).valid
            ids = np.concatenate([ids, proposed[valid]])
            if len(ids) == count:
                return ids
        return np.concatenate([ids, self._draw_from_all(count - len(ids))])

    def _draw_from_all(self, count: int) -> Ids:
        """The slow way, for a replay in which hardly any row can start a window."""
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
        """Pass on what an update learned of the rows `ids`."""
        self.sampler.update(ids, priorities)

    def reserve(self, codec: Codec) -> "ReplayConversion":
        """Take the memory that a conversion to rows of `codec` needs (see `Conversion`)."""
        return ReplayConversion(self, codec)

    def convert(self, codec: Codec, encode: Encode) -> int:
        """Turn frames into latents in place; returns the number of rows kept."""
        return self.reserve(codec).run(encode)

    # --- state ---------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Layout and random state, as plain data."""
        store = self.store
        return {
            "appended": store.appended,
            "rows": store.rows,
            "capacity": store.capacity,
            "first_slot": store.slot(store.oldest),
            "codec": store.codec.name,
            "largest_priority": self.sampler.largest,
            "rng": self._rng.bit_generator.state,
        }

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """The rows as they stand in the arena, their columns, and priorities from the oldest row to the newest."""
        store = self.store
        ids = np.arange(store.oldest, store.appended)
        columns = {name: array[: store.rows] for name, array in vars(store.columns).items()}
        return {"rows": store.data[: store.rows], "priorities": self.sampler.priorities(ids), **columns}


class ReplayConversion:
    """A conversion of a replay that cannot run out of ledger any more; `run` it or `cancel` it."""

    def __init__(self, replay: Replay, codec: Codec) -> None:
        self._replay = replay
        with replay._ledger.all_or_nothing():
            self._gathered = replay._allocate_gathered(codec, stack=1)
            self._rows = Conversion(replay.store, codec, replay._ledger)

    def cancel(self) -> None:
        """Give the memory back without converting."""
        self._rows.cancel()
        self._replay._ledger.release(Line.WORKSPACE, self._gathered)

    def run(self, encode: Encode) -> int:
        """Convert rows and priorities; returns the number of rows kept (see `Conversion.run`)."""
        replay = self._replay
        ids = np.arange(self._rows.first, replay.store.appended)
        priorities = replay.sampler.priorities(ids)
        kept = self._rows.run(encode)
        replay.sampler.rebuild(ids, priorities)
        replay._ledger.release(Line.WORKSPACE, replay._gathered)
        replay._gathered = self._gathered
        return kept
