"""Perception: turns each environment frame into a row for the replay and an input for the agent."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.preprocess import FrameStack
from seer_runtime.replay.crops import Crop
from seer_runtime.system.ledger import Ledger, Line
from seer_runtime.system.state import State, StateError, generator_state, restore_generator


@dataclass(frozen=True)
class Observed:
    """One observation. Both arrays are valid until the next call of `observe`."""

    row: NDArray[Any]  # stored in the replay
    input: NDArray[Any]  # the agent acts on it


class Perception(Protocol):
    """Turns frames into observations."""

    stack: FrameStack

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Return the observation that the next frame completes. `first` means that the frame begins a scene."""

    def release(self) -> None:
        """Release the memory from the ledger, except that of the stack, which belongs to the caller."""

    def state(self) -> State:
        """Return the state from which `restore` rebuilds the current observation."""

    def restore(self, state: State) -> Observed:
        """Restore a state and return its observation. Raises StateError if the state does not fit."""


class FramePerception:
    """Perception before the freeze: the row is the newest frame, the input is the center crop of the stack."""

    def __init__(self, stack: FrameStack, crop: Crop, ledger: Ledger) -> None:
        self.stack = stack
        self._crop = crop
        self._ledger = ledger
        frames = stack.frames
        self._center = ledger.allocate(Line.WORKSPACE, (*frames.shape[:-2], *crop.size), np.uint8)

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Return the frame as the row, and the center crop of the stack `[C, h, w]` as the input."""
        self.stack.push(frame, first=first)
        return self._current()

    def _current(self) -> Observed:
        stacked = self.stack.frames
        self._crop.cut(stacked, self._crop.center, self._center)
        return Observed(row=stacked[-1], input=self._center.reshape(-1, *self._crop.size))

    def release(self) -> None:
        """Release the memory of the center crop from the ledger."""
        self._ledger.release(Line.WORKSPACE, self._center)

    def state(self) -> State:
        """Return the frame stack."""
        return State(arrays={"stack": self.stack.frames})

    def restore(self, state: State) -> Observed:
        """Restore the frame stack and return its observation. Raises StateError if it does not fit."""
        _fill(state, stack=self.stack.frames)
        return self._current()


class LatentPerception:
    """Perception after the freeze: one call of the encoder gives K latents for the row and one for the input.

    The K latents are of random crops from `rng`, the input is of the center crop. If the crop is the whole frame, all
    crops are equal, and the last latent of the row is also the input. An evaluation stores no rows and uses K = 0.
    Raises BudgetError if the ledger has no room.
    """

    def __init__(
        self,
        stack: FrameStack,
        crop: Crop,
        encoder: OnnxEncoder,
        ledger: Ledger,
        *,
        augmentations: int,
        rng: np.random.Generator,
    ) -> None:
        self.stack = stack
        self.encoder = encoder
        self.rng = rng
        self._crop = crop
        self._ledger = ledger
        self._augmentations = augmentations
        count = augmentations + (0 if crop.whole and augmentations else 1)
        self._views = ledger.allocate(Line.WORKSPACE, (count, *stack.frames.shape[:-2], *crop.size), np.uint8)
        # A copy, because an evaluation between two steps uses the same encoder and overwrites its output.
        self._latents = ledger.allocate(Line.WORKSPACE, (count, *encoder.latent_shape), np.float32)

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Return the latents of the stack under K random crops `[K, N, L]`, and under the center crop `[N, L]`."""
        self.stack.push(frame, first=first)
        return self.current()

    def current(self) -> Observed:
        """Encode the current stack. At the freeze, this encodes the last observation of the frame phase."""
        offsets = [*self._crop.draw(self.rng, self._augmentations), self._crop.center]
        for offset, view in zip(offsets, self._views, strict=False):
            self._crop.cut(self.stack.frames, offset, view)
        self._latents[...] = self.encoder(self._views.reshape(len(self._views), -1, *self._crop.size))
        return self._observed()

    def _observed(self) -> Observed:
        return Observed(row=self._latents[: self._augmentations], input=self._latents[-1])

    def state(self) -> State:
        """Return the frame stack, its latents, and the state of the random generator."""
        return State({"views": generator_state(self.rng)}, {"stack": self.stack.frames, "latents": self._latents})

    def restore(self, state: State) -> Observed:
        """Restore the stack, the latents and the generator. Raises StateError if they do not fit."""
        restore_generator(self.rng, state.values.get("views"))
        _fill(state, stack=self.stack.frames, latents=self._latents)
        return self._observed()

    def release(self) -> None:
        """Release the memory of the crops and the latents from the ledger."""
        self._ledger.release(Line.WORKSPACE, self._views, self._latents)


def _fill(state: State, **targets: NDArray[Any]) -> None:
    """Copy the arrays of `state` to the `targets` of the same names.

    Raises StateError if one is missing or its shape or dtype differs.
    """
    for name, target in targets.items():
        array = state.arrays.get(name)
        if array is None or array.shape != target.shape or array.dtype != target.dtype:
            found = None if array is None else f"{array.dtype} {list(array.shape)}"
            raise StateError(f"expected {name} of {target.dtype} {list(target.shape)} in the observation, got {found}")
        target[...] = array
