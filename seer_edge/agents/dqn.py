"""DQN (Mnih et al. 2015) with double Q-learning (van Hasselt et al. 2016) and n-step returns."""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from seer_edge.agents.actor import Actor
from seer_edge.agents.agent import UpdateResult, Wait, no_wait
from seer_edge.agents.inputs import copy_parameters
from seer_edge.agents.q_learning import QLearningAgent
from seer_edge.config.presets.dqn import DqnSettings
from seer_edge.networks.dqn import DqnHeadSpec
from seer_edge.networks.encoder import Encoder, Linear
from seer_edge.networks.spec import EncoderSpec
from seer_runtime.replay.replay import Batch

ADAM_EPSILON = 1e-8
"""The default of torch, which Stable-Baselines3 uses."""


class DqnHead(nn.Module):
    """Latents `[B, L]` to Q-values `[B, actions]`."""

    def __init__(self, spec: DqnHeadSpec, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden = Linear((spec.hidden, spec.latent_size), generator, orthogonal=False)
        self.values = Linear((spec.actions, spec.hidden), generator, orthogonal=False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return Q-values `[B, actions]`."""
        values: torch.Tensor = self.values(torch.relu_(self.hidden(latents)))
        return values


class DqnAgent(QLearningAgent[DqnHead]):
    """A head with one Q-value for each action, which explores with an epsilon that falls with the step."""

    def __init__(
        self,
        encoder_spec: EncoderSpec,
        head_spec: DqnHeadSpec,
        settings: DqnSettings,
        *,
        seed: int,
        device: str = "cpu",
    ) -> None:
        init = torch.Generator().manual_seed(seed)
        super().__init__(
            Encoder(encoder_spec, init),
            DqnHead(head_spec, init),
            target_update_steps=settings.target_update_steps,
            learning_rate=settings.learning_rate,
            adam_epsilon=ADAM_EPSILON,
            seed=seed,
            device=device,
        )
        self.settings = settings
        self.actions = head_spec.actions
        self.acting_head = self.head
        self._chance = self._choice = 0.0  # uniform in [0, 1): whether to act at random, and how

    # --- acting --------------------------------------------------------------------------------------------

    def act_beside_updates(self) -> None:
        """Copy the head too (see `Agent`)."""
        super().act_beside_updates()
        self.acting_head = copy.deepcopy(self.head).requires_grad_(False)

    def refresh(self, *, new_noise: bool = True) -> None:
        """Copy the current networks for acting and, with `new_noise`, draw the numbers of one exploring action."""
        super().refresh()
        if self.acting_head is not self.head:
            copy_parameters(self.acting_head, self.head)
        if new_noise:
            self._chance, self._choice = torch.rand(
                2, generator=self.generator, dtype=torch.float32, device=self.device
            ).tolist()

    def explore(self, observation: NDArray[Any], timestep: int) -> int:
        """Return a random action with the probability `settings.epsilon(timestep)`, else the best one."""
        if self._chance < self.settings.epsilon(timestep):
            return int(self._choice * self.actions)
        with torch.no_grad():
            return int(self.acting_head(self._observe(observation, self.acting_encoder)).argmax())

    def greedy(self, observation: NDArray[Any]) -> int:
        """Return the best action for one observation."""
        with torch.no_grad():
            return int(self.head(self._observe(observation, self.encoder)).argmax())

    def new_actor(self, rng: np.random.Generator) -> "DqnActor":
        """See `Agent`."""
        return DqnActor(self, rng)

    def outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Return Q-values `[B, actions]` of outputs of the frozen part `[B, 1, L]`."""
        with torch.no_grad():
            values: torch.Tensor = self.head(self._latents_behind_the_cut(latents))
            return values

    @torch.no_grad()
    def head_outputs(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs of the hidden layer and the Q-values (see `Agent`)."""
        hidden = torch.relu_(self.head.hidden(latents[:, 0]))
        return {"head hidden": hidden, "head values": self.head.values(hidden)}

    # --- learning ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: Batch) -> "Prepared":
        """Read the inputs of both networks and compute the target network's Q-values."""
        inputs, next_inputs = ([*self._read(o)] for o in (batch.observations, batch.next_observations))
        (latents,) = self._latents(next_inputs, (self.target_encoder, 0), read=True)
        return Prepared(inputs, next_inputs, self.target_head(latents))

    def update(self, batch: Batch, prepared: "Prepared | None" = None, refreshed: Wait = no_wait) -> UpdateResult:
        """Take one gradient step on the Huber loss of the n-step double-Q error, weighted by importance.

        The priorities are the absolute errors of the rows.
        """
        refreshed()
        inputs, next_inputs, target_values = prepared or self.prepare(batch)
        with torch.no_grad():
            (next_latents,) = self._latents(next_inputs, (self.encoder, 0), read=True)
            best = self.head(next_latents).argmax(dim=1, keepdim=True)
            next_values = target_values.gather(1, best)[:, 0]
            targets = self._tensor(batch.returns) + self._tensor(batch.discounts) * next_values
        (latents,) = self._latents(inputs, (self.encoder, 0), read=True)
        values = self.head(latents).gather(1, self._tensor(batch.actions).long()[:, None])[:, 0]
        losses = functional.smooth_l1_loss(values, targets, reduction="none")
        loss = (self._tensor(batch.weights) * losses).mean()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.clip(self.settings.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        return UpdateResult(float(loss.detach()), (values.detach() - targets).abs().cpu().numpy())


class DqnActor(Actor[DqnAgent]):
    """Draws the random actions of each step from its own stream."""

    def __init__(self, agent: DqnAgent, rng: np.random.Generator) -> None:
        super().__init__(agent, rng)
        self._head = copy.deepcopy(agent.head).requires_grad_(False)
        self._epsilon, self._actions = agent.settings.epsilon, agent.actions

    def take(self, agent: DqnAgent) -> None:
        """See `Actor`."""
        super().take(agent)
        copy_parameters(self._head, agent.head)

    def explore(self, observation: NDArray[Any], timestep: int) -> int:
        """Return a random action with the probability `epsilon(timestep)`, else the best one."""
        if self.rng.random() < self._epsilon(timestep):
            return int(self.rng.integers(self._actions))
        return self.greedy(observation)

    @torch.no_grad()
    def greedy(self, observation: NDArray[Any]) -> int:
        """Return the best action."""
        return int(self._head(self._latent(observation)).argmax())


class Prepared(NamedTuple):
    """The result of `DqnAgent.prepare`."""

    inputs: list[torch.Tensor]  # of s, slice by slice
    next_inputs: list[torch.Tensor]  # of s', slice by slice
    target_values: torch.Tensor  # [B, actions], of s' by the target network
