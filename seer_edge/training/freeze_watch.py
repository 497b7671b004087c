"""`--freeze-at auto`: find the step of the freeze from how much encoder and head still change (decision 19).

At every multiple of the window W the online networks are compared with those of W steps before, on the same rows of
the replay. The measure is linear CKA: the similarity is that of the encoder's outputs, the drift is 1 less that of the
head's outputs. Freeze once both have been flat for `FLAT_WINDOWS` windows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from seer_edge.agents.agent import Agent
from seer_edge.analysis.similarity import linear_cka
from seer_edge.networks.spec import EncoderSpec
from seer_edge.training.replay_rows import Floats, encoded, outputs_of, real_rows
from seer_runtime.replay.replay import Replay
from seer_runtime.replay.storage import Ids
from seer_runtime.system.state import State, StateError

PROBE_ROWS = 512
PROBE_BYTES = 4_000_000
"""Size of the latents of one network on the probe. Wide latents get fewer rows."""
FLAT_WINDOWS = 3
FLAT_SIMILARITY = FLAT_DRIFT = 0.02
"""Largest distance between the values of flat windows."""
_NOT_ONLINE = ("target", "optimizer.")
"""Beginnings of the names of an agent's tensors that do not act."""


class Comparison(NamedTuple):
    """The networks at `step` against those of one window before."""

    step: int
    similarity: float  # linear CKA of the encoder's outputs, 0 to 1
    drift: float  # 1 less that of the head's outputs


@dataclass
class FreezeWatch:
    """The comparisons so far, and a copy of the networks at the last one.

    Attributes:
        window: W, in steps.
        history: all comparisons, oldest first.
        reference: float32 copies of the online networks at `reference_step`, by name; None before the first.

    """

    window: int
    history: list[Comparison]
    reference: dict[str, torch.Tensor] | None = None
    reference_step: int = 0

    @property
    def is_settled(self) -> bool:
        """Whether similarity and drift have been flat for `FLAT_WINDOWS` windows."""
        latest = self.history[-FLAT_WINDOWS:]
        if len(latest) < FLAT_WINDOWS:
            return False
        similarities, drifts = [one.similarity for one in latest], [one.drift for one in latest]
        return bool(np.ptp(similarities) <= FLAT_SIMILARITY and np.ptp(drifts) <= FLAT_DRIFT)

    def latest(self, timestep: int) -> Comparison | None:
        """Return the comparison of this step, or None if there was none."""
        return self.history[-1] if self.history and self.history[-1].step == timestep else None

    def is_due(self, timestep: int, learning_starts: int) -> bool:
        """Return whether a window ends with `timestep`."""
        return timestep % self.window == 0 and timestep > max(self.reference_step, learning_starts)

    def observe(self, timestep: int, agent: Agent, replay: Replay, encoder: EncoderSpec) -> None:
        """Compare the networks with the reference, if there is one, and keep them as the next. Changes no weight."""
        if self.reference is not None:
            rows = max(2, min(PROBE_ROWS, PROBE_BYTES // (4 * math.prod(encoder.latent_shape))))
            similarity, drift = _compare(agent, replay, real_rows(replay, rows), self.reference)
            self.history.append(Comparison(timestep, similarity, drift))
        self.reference = _copied(online_tensors(agent))
        self.reference_step = timestep

    def state(self) -> State:
        """Return the state for a checkpoint."""
        arrays = {name: tensor.cpu().numpy() for name, tensor in (self.reference or {}).items()}
        return State({"step": self.reference_step, "history": [list(one) for one in self.history]}, arrays)

    def restore(self, state: State, agent: Agent) -> None:
        """Restore what `state` returned. Raises StateError if it is malformed or of other networks."""
        try:
            self.reference_step = int(state.values["step"])
            self.history = [Comparison(int(at), float(cka), float(drift)) for at, cka, drift in state.values["history"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"the record of --freeze-at auto is damaged ({error})") from error
        if not state.arrays:
            return
        wanted = {name: (np.dtype(np.float32), *tensor.shape) for name, tensor in online_tensors(agent).items()}
        if {name: (array.dtype, *array.shape) for name, array in state.arrays.items()} != wanted:
            raise StateError("the record of --freeze-at auto is of other networks")
        self.reference = {name: torch.from_numpy(array).to(agent.device) for name, array in state.arrays.items()}


def online_tensors(agent: Agent) -> dict[str, torch.Tensor]:
    """Return the tensors that act, by name."""
    return {name: tensor for name, tensor in agent.tensors() if not name.startswith(_NOT_ONLINE)}


def _compare(agent: Agent, replay: Replay, ids: Ids, reference: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Return similarity and drift of the agent's networks against `reference`, on the rows `ids`."""
    tensors = online_tensors(agent)
    now, outputs = _latents_and_outputs(agent, replay, ids)
    current = _copied(tensors)
    _load(tensors, reference)
    try:
        before, outputs_before = _latents_and_outputs(agent, replay, ids)
    finally:
        _load(tensors, current)
    similarity = linear_cka(before.reshape(len(ids), -1), now.reshape(len(ids), -1))
    return similarity, 1.0 - linear_cka(outputs_before, outputs)


def _latents_and_outputs(agent: Agent, replay: Replay, ids: Ids) -> tuple[Floats, Floats]:
    latents = np.concatenate([*encoded(agent, replay, ids)])
    return latents, outputs_of(agent, [latents])


def _copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def _load(tensors: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        tensor.copy_(values[name])
