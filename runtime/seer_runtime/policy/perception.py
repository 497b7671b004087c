"""From an environment's frame to what is stored and what is acted on, once per observation."""

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
    """One observation. Both arrays are valid until the next one is perceived."""

    row: NDArray[Any]  # what the replay stores
    input: NDArray[Any]  # what the agent acts on


class Perception(Protocol):
    """Turns frames into observations."""

    stack: FrameStack

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Take the next frame; `first` says that a scene begins with it."""

    def release(self) -> None:
        """Give its memory back to the ledger; the stack is the caller's."""

    def state(self) -> State:
        """What the observation was made of and, where that is not enough, the observation."""

    def restore(self, state: State) -> Observed:
        """Take on the state that `state` gave; returns its observation. Raises StateError for another kind's."""


class FramePerception:
    """Stores the newest frame and acts on the center of the stack, `[C, h, w]`."""

    def __init__(self, stack: FrameStack, crop: Crop, ledger: Ledger) -> None:
        self.stack = stack
        self._crop = crop
        self._ledger = ledger
        frames = stack.frames
        self._center = ledger.allocate(Line.WORKSPACE, (*frames.shape[:-2], *crop.size), np.uint8)

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Row: the frame. Input: the center of the stack it completes."""
        self.stack.push(frame, first=first)
        return self._current()

    def _current(self) -> Observed:
        stacked = self.stack.frames
        self._crop.cut(stacked, self._crop.center, self._center)
        return Observed(row=stacked[-1], input=self._center.reshape(-1, *self._crop.size))

    def release(self) -> None:
        """Give the center's memory back to the ledger."""
        self._ledger.release(Line.WORKSPACE, self._center)

    def state(self) -> State:
        """The stack."""
        return State(arrays={"stack": self.stack.frames})

    def restore(self, state: State) -> Observed:
        """Take on the stack."""
        _fill(state, stack=self.stack.frames)
        return self._current()


class LatentPerception:
    """Encodes each stack in one call: K views of it to store, and the center to act on.

    Views are drawn from `rng`. Where a crop is the whole frame there is one view only, stored and acted on. An
    evaluation stores nothing: K = 0.
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
        # Its own: an evaluation between two steps uses the same encoder, and with it the encoder's memory.
        self._latents = ledger.allocate(Line.WORKSPACE, (count, *encoder.latent_shape), np.float32)

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Row: latents `[K, N, L]` of the stack that the frame completes. Input: the center's, `[N, L]`."""
        self.stack.push(frame, first=first)
        return self.current()

    def current(self) -> Observed:
        """The observation that the stack holds now; at the freeze it was perceived as frames before."""
        offsets = [*self._crop.draw(self.rng, self._augmentations), self._crop.center]
        for offset, view in zip(offsets, self._views, strict=False):
            self._crop.cut(self.stack.frames, offset, view)
        self._latents[...] = self.encoder(self._views.reshape(len(self._views), -1, *self._crop.size))
        return self._observed()

    def _observed(self) -> Observed:
        return Observed(row=self._latents[: self._augmentations], input=self._latents[-1])

    def state(self) -> State:
        """The stack, the latents of the views that were drawn of it, and the stream that draws the next."""
        return State({"views": generator_state(self.rng)}, {"stack": self.stack.frames, "latents": self._latents})

    def restore(self, state: State) -> Observed:
        """Take on stack, latents and stream."""
        restore_generator(self.rng, state.values.get("views"))
        _fill(state, stack=self.stack.frames, latents=self._latents)
        return self._observed()

    def release(self) -> None:
        """Give the views' and the latents' memory back to the ledger."""
        self._ledger.release(Line.WORKSPACE, self._views, self._latents)


def _fill(state: State, **targets: NDArray[Any]) -> None:
    """Copy the arrays of `state` to `targets` of the same names. Raises StateError where they are others."""
    for name, target in targets.items():
        array = state.arrays.get(name)
        if array is None or array.shape != target.shape or array.dtype != target.dtype:
            found = None if array is None else f"{array.dtype} {list(array.shape)}"
            raise StateError(f"an observation's {name} is {target.dtype} {list(target.shape)}, not {found}")
        target[...] = array
