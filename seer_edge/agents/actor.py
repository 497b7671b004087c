"""Copies of an agent's networks that act in one thread while the agent learns in another."""

import abc
import copy
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.agents.inputs import Inputs, copy_parameters, input_of, latents_of_maps, maps_of
from seer_edge.envs.actions import Action
from seer_edge.networks.encoder import Encoder


class Acting(Protocol):
    """What every actor reads of its agent."""

    encoder: Encoder
    device: torch.device
    reads_latents: bool


AnyAgent = TypeVar("AnyAgent", bound=Acting)
WAIT_SECONDS = 0.0005


class Actor(abc.ABC, Generic[AnyAgent]):
    """A copy of everything that `agent` acts with. It shares no memory and no random stream with the agent.

    Attributes:
        reads_latents: whether observations are latents `[N, L]` and not frames `[C, h, w]`.

    """

    def __init__(self, agent: AnyAgent, rng: np.random.Generator) -> None:
        self.encoder = copy.deepcopy(agent.encoder).requires_grad_(False)
        self.device = agent.device
        self.rng = rng
        self.reads_latents = agent.reads_latents

    def take(self, agent: AnyAgent) -> None:
        """Copy the agent's networks as they are now. No update may be running."""
        self.reads_latents = agent.reads_latents
        if self._kind is not Inputs.LATENTS:
            copy_parameters(self.encoder, agent.encoder)

    @abc.abstractmethod
    def explore(self, observation: NDArray[Any], timestep: int) -> Action:
        """Return the training action for one observation at agent step `timestep`."""

    @abc.abstractmethod
    def greedy(self, observation: NDArray[Any]) -> Action:
        """Return the action for one observation, without exploration."""

    @property
    def _kind(self) -> Inputs:
        return input_of(self.encoder, reads_latents=self.reads_latents)

    def _latent(self, observation: NDArray[Any], network: int = 0) -> torch.Tensor:
        """Return the latent `[1, L]` of one observation for the head of one network."""
        kind, inputs = self._kind, torch.from_numpy(observation[None]).to(self.device)
        if kind is Inputs.FRAMES:
            inputs = self.encoder.pixels(inputs)
        return latents_of_maps(kind, self.encoder, maps_of(kind, self.encoder, inputs), network)


class Actors:
    """Two actors in turns: one acts, the other takes the agent's next networks.

    Acting never waits for learning. `publish` waits while an action is still being computed with the actor that it is
    about to change.
    """

    def __init__(self, build: Callable[[], "Actor[Any]"]) -> None:
        self._pair = (build(), build())
        self._newest, self._in_use = 0, -1
        self._lock = threading.Lock()  # held only to read or write these two numbers

    def publish(self, agent: Acting) -> None:
        """Let the next action use the networks of `agent` as they are now. No update may be running."""
        other = 1 - self._newest
        while self._in_use == other:
            time.sleep(WAIT_SECONDS)
        self._pair[other].take(agent)
        with self._lock:
            self._newest = other

    @contextmanager
    def acting(self) -> Iterator["Actor[Any]"]:
        """Context manager: the newest actor, which does not change inside."""
        with self._lock:
            self._in_use = self._newest
        try:
            yield self._pair[self._in_use]
        finally:
            self._in_use = -1
