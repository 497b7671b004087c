"""From an environment's frame to what is stored and what is acted on, once per observation."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from seer_runtime.encoder import OnnxEncoder
from seer_runtime.ledger import Ledger, Line
from seer_runtime.preprocess import FrameStack


@dataclass(frozen=True)
class Observed:
    """One observation. Both arrays are valid until the next one is perceived."""

    row: NDArray[Any]  # what the replay stores
    input: NDArray[Any]  # what the agent acts on


class Perception(Protocol):
    """Turns frames into observations."""

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Take the next frame; `first` says that an episode begins with it."""


class FramePerception:
    """Stores the newest frame and acts on the stack `[S, *frame]`."""

    def __init__(self, stack: FrameStack) -> None:
        self.stack = stack

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Row: the frame. Input: the stack it completes."""
        stacked = self.stack.push(frame, first=first)
        return Observed(row=stacked[-1], input=stacked)


class LatentPerception:
    """Encodes each stack once and both stores and acts on the latent."""

    def __init__(self, stack: FrameStack, encoder: OnnxEncoder, ledger: Ledger) -> None:
        self.stack = stack
        self.encoder = encoder
        self._ledger = ledger
        # Its own: an evaluation between two steps uses the same encoder, and with it the encoder's memory.
        self._latent = ledger.allocate(Line.WORKSPACE, encoder.latent_shape, np.float32)

    def observe(self, frame: NDArray[Any], *, first: bool) -> Observed:
        """Row and input: the latent of the stack that the frame completes."""
        self.stack.push(frame, first=first)
        return self.current()

    def current(self) -> Observed:
        """The observation that the stack holds now; at the freeze it was perceived as frames before."""
        self._latent[...] = self.encoder(self.stack.frames[None])[0]
        return Observed(row=self._latent, input=self._latent)

    def release(self) -> None:
        """Give the latent's memory back to the ledger."""
        self._ledger.release(Line.WORKSPACE, self._latent)
