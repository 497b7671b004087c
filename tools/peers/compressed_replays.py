"""Compressed replays of two other projects, for `membench.py`: TorchRL and sb3-extra-buffers (`seer-edge[peers]`).

Both compress each observation, a stack of frames, by itself. They are used here with what their documentation
recommends for frames. The bytes are those of the compressed data, without the Python objects that hold it.
"""

import importlib.util

import numpy as np
from numpy.typing import NDArray
from stores import NO_OBSERVATION, Pair, Row, Store, columns_only, stack_shape

from seer_runtime.replay.storage import Ids

TORCHRL, SB3 = "TorchRL compressed stacks", "sb3-extra-buffers stacks"


def peer_stores(budget_bytes: int, frame_shape: tuple[int, ...], seed: int, *, rows: int) -> list[Store]:
    """Return the stores of the projects that are installed."""
    kinds: dict[str, type[PeerStacks]] = {"torchrl": TorchRlStacks, "sb3_extra_buffers": Sb3Stacks}
    installed = [kind for module, kind in kinds.items() if importlib.util.find_spec(module) is not None]
    return [kind(budget_bytes, frame_shape, seed, rows=rows) for kind in installed]


class PeerStacks(Store):
    """Base class: `rows` stacks, each of which the other project compresses."""

    title: str

    def __init__(self, budget_bytes: int, frame_shape: tuple[int, ...], seed: int, *, rows: int) -> None:
        super().__init__(self.title, *columns_only(rows, stack=1), seed)
        self.shape = stack_shape(frame_shape)
        self.budget_bytes = budget_bytes
        self._sizes = np.zeros(rows)
        self._prepare(rows)

    def _prepare(self, rows: int) -> None:
        raise NotImplementedError

    def _put(self, slot: int, stack: NDArray[np.uint8]) -> int:
        """Store one stack. Return its compressed size in bytes."""
        raise NotImplementedError

    def _get(self, slot: int) -> NDArray[np.uint8]:
        """Return one stack."""
        raise NotImplementedError

    @property
    def bytes_a_row(self) -> float:  # type: ignore[override]
        """Mean size of a compressed stack."""
        return float(self._sizes.sum()) / self.rows.rows

    @property
    def capacity(self) -> int:  # type: ignore[override]
        """Number of stacks of mean size within the budget."""
        return int(self.budget_bytes / self.bytes_a_row)

    def _stored(self, row: Row) -> NDArray[np.uint8]:
        slot = self.rows.slot(self.rows.appended)
        self._sizes[slot] = self._put(slot, row.stack)
        return NO_OBSERVATION

    def fetch(self, ids: Ids, bootstrap_ids: Ids) -> Pair:
        """Decompress the stacks of both ids."""
        observations, next_observations = (
            np.stack([self._get(slot) for slot in self.rows.slots(wanted).tolist()]) for wanted in (ids, bootstrap_ids)
        )
        return observations, next_observations


class TorchRlStacks(PeerStacks):
    """TorchRL's `CompressedListStorage` with its defaults: zlib, or zstd from Python 3.14 on, at level 3."""

    title = TORCHRL

    def _prepare(self, rows: int) -> None:
        import torch
        from torchrl.data import CompressedListStorage

        self._tensor = torch.from_numpy
        self._storage = CompressedListStorage(rows)

    def _put(self, slot: int, stack: NDArray[np.uint8]) -> int:
        self._storage.set(slot, self._tensor(stack.copy()))
        return int(self._storage._storage[slot].numel())

    def _get(self, slot: int) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._storage.get(slot).numpy()
        return found


class Sb3Stacks(PeerStacks):
    """The `CompressedReplayBuffer` of sb3-extra-buffers, with one stack a row and zstd at level 1."""

    title = SB3

    def _prepare(self, rows: int) -> None:
        from gymnasium.spaces import Box, Discrete
        from sb3_extra_buffers.compressed import CompressedReplayBuffer

        self._buffer = CompressedReplayBuffer(
            rows,
            Box(0, 255, self.shape, np.uint8),
            Discrete(2),
            device="cpu",
            optimize_memory_usage=True,
            handle_timeout_termination=False,
            compression_method="zstd1",
        )

    def _put(self, slot: int, stack: NDArray[np.uint8]) -> int:
        packed = self._buffer._compress(stack.ravel())
        self._buffer.observations[slot, 0] = packed
        return len(packed)

    def _get(self, slot: int) -> NDArray[np.uint8]:
        found: NDArray[np.uint8] = self._buffer._decompress(self._buffer.observations[slot, 0])
        return found.reshape(self.shape)
