"""Rainbow (Hessel et al. 2018): double, dueling, distributional, noisy and n-step Q-learning.

It is prioritized if the replay is. The head's gradients are written by hand, because autograd takes longer
(decision 12). `rainbow_reference.py` has the same loss by autograd. Tests compare the two.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seer_edge.agents.actor import Actor
from seer_edge.agents.agent import UpdateResult, Wait, no_wait
from seer_edge.agents.c51 import project
from seer_edge.agents.q_learning import QLearningAgent
from seer_edge.config.presets import RainbowSettings
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.heads import (
    RainbowHead,
    Weights,
    draw_noise,
    head_backward,
    head_trace,
    noisy_q_values,
    q_values,
)
from seer_edge.networks.script import scripted
from seer_edge.networks.spec import EncoderSpec, RainbowHeadSpec
from seer_runtime.replay.replay import Batch


class RainbowAgent(QLearningAgent[RainbowHead]):
    """A noisy head with a categorical distribution of returns for each action.

    Attributes:
        weights: the online head's weights under the noise of the last `refresh`.

    """

    def __init__(
        self,
        encoder_spec: EncoderSpec,
        head_spec: RainbowHeadSpec,
        settings: RainbowSettings,
        *,
        seed: int,
        device: str = "cpu",
    ) -> None:
        init = torch.Generator().manual_seed(seed)
        super().__init__(
            Encoder(encoder_spec, init),
            RainbowHead(head_spec, init, settings.noisy_sigma),
            target_update_steps=settings.target_update_steps,
            learning_rate=settings.learning_rate,
            adam_epsilon=settings.adam_epsilon,
            seed=seed,
            device=device,
        )
        self.settings = settings
        self.support = torch.linspace(*settings.value_range, head_spec.atoms, dtype=torch.float32, device=self.device)
        self.weights: Weights = self.head.noisy_weights()

    # --- acting --------------------------------------------------------------------------------------------

    def refresh(self, *, new_noise: bool = True) -> None:
        """Draw new noise for both heads and compute the online head's weights under it.

        Acting and the next update use the same weights.
        """
        super().refresh()
        if new_noise:
            draw_noise([*self.head.noise, *self.target_head.noise], self.generator)
        self.weights = self.head.noisy_weights()

    def explore(self, observation: NDArray[Any], timestep: int) -> int:
        """Return the best action for one observation under the current noise. The noise explores at every step."""
        with torch.no_grad():
            return int(self._values(observation, self.weights, self.acting_encoder).argmax())

    def greedy(self, observation: NDArray[Any]) -> int:
        """Return the best action for one observation, without noise."""
        with torch.no_grad():
            return int(self._values(observation, self.head.mean_weights(), self.encoder).argmax())

    def new_actor(self, rng: np.random.Generator) -> "RainbowActor":
        """See `Agent`."""
        return RainbowActor(self, rng)

    def _values(self, observation: NDArray[Any], weights: Weights, encoder: Encoder) -> torch.Tensor:
        return q_values(self._observe(observation, encoder), weights, self.support, self.head.spec.actions)[0]

    def outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Return Q-values `[B, actions]` of outputs of the frozen part `[B, 1, L]`, without noise."""
        with torch.no_grad():
            latents = self._latents_behind_the_cut(latents)
            return q_values(latents, self.head.mean_weights(), self.support, self.head.spec.actions)

    def head_tensors(self) -> dict[str, torch.Tensor]:
        """Return the weights and biases of the head without those of its noise (see `Agent`)."""
        return {name: tensor for name, tensor in super().head_tensors().items() if not name.endswith("_sigma")}

    @torch.no_grad()
    def head_outputs(self, latents: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the outputs of both hidden streams, of the values and of the advantages (see `Agent`)."""
        return self.head.layer_outputs(latents[:, 0])

    # --- learning ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, batch: Batch) -> "Prepared":
        """Read the inputs of both networks and compute the target network's logits under its noise."""
        inputs, next_inputs = ([*self._read(o)] for o in (batch.observations, batch.next_observations))
        (latents,) = self._latents(next_inputs, (self.target_encoder, 0), read=True)
        weights = self.target_head.noisy_weights()
        return Prepared(inputs, next_inputs, head_trace(latents, weights, self.target_head.spec.actions)[1])

    def update(self, batch: Batch, prepared: "Prepared | None" = None, refreshed: Wait = no_wait) -> UpdateResult:
        """Take one gradient step on the distributional n-step double-Q loss, weighted by importance.

        Acting and this update share the noise that `refresh` drew.
        """
        inputs, next_inputs, target_logits = prepared or self.prepare(batch)
        with torch.no_grad():
            (next_latents,) = self._latents(next_inputs, (self.encoder, 0), read=True)
        (latents,) = self._latents(inputs, (self.encoder, 0), read=True)
        refreshed()
        with torch.no_grad():
            loss, losses, below = _learn_head(
                latents,
                next_latents,
                target_logits,
                self._tensor(batch.returns),
                self._tensor(batch.discounts),
                self._tensor(batch.actions).long(),
                self._tensor(batch.weights),
                self.support,
                self.weights,
                self.head.noise,
                self.head.gradients(),
            )
        if latents.requires_grad:
            self.encoder.zero_grad()
            slopes = below @ self.head.hidden.noisy_weight
            # A scalar, because torch imports its compiler stack to check the gradient of any other root.
            (latents * slopes).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.clip(self.settings.max_gradient_norm)
        self.optimizer.step()
        self.updates += 1
        return UpdateResult(float(loss), losses.cpu().numpy())


class RainbowActor(Actor[RainbowAgent]):
    """Draws the noise of each action from its own stream, as an agent does that learns in each step."""

    def __init__(self, agent: RainbowAgent, rng: np.random.Generator) -> None:
        super().__init__(agent, rng)
        self._parameters = [parameter.detach().clone() for parameter in agent.head.layer_parameters]
        self._noise = [noise.clone() for noise in agent.head.noise]
        self._generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
        self._support, self._actions = agent.support, agent.head.spec.actions

    @torch.no_grad()
    def take(self, agent: RainbowAgent) -> None:
        """See `Actor`."""
        super().take(agent)
        torch._foreach_copy_(self._parameters, [*agent.head.layer_parameters])

    @torch.no_grad()
    def explore(self, observation: NDArray[Any], timestep: int) -> int:
        """Return the best action under new noise."""
        draw_noise(self._noise, self._generator)
        latent = self._latent(observation)
        return int(noisy_q_values(latent, self._parameters, self._noise, self._support, self._actions)[0].argmax())

    @torch.no_grad()
    def greedy(self, observation: NDArray[Any]) -> int:
        """Return the best action without noise."""
        means = [tensor for layer in range(3) for tensor in self._parameters[4 * layer : 4 * layer + 2]]
        return int(q_values(self._latent(observation), means, self._support, self._actions)[0].argmax())


class Prepared(NamedTuple):
    """The result of `RainbowAgent.prepare`."""

    inputs: list[torch.Tensor]  # of s, slice by slice
    next_inputs: list[torch.Tensor]  # of s', slice by slice
    target_logits: torch.Tensor  # [B, actions, atoms], of s' by the target network


@scripted
def _learn_head(
    latents: torch.Tensor,
    next_latents: torch.Tensor,
    target_logits: torch.Tensor,
    returns: torch.Tensor,
    discounts: torch.Tensor,
    actions: torch.Tensor,
    importance: torch.Tensor,
    support: torch.Tensor,
    weights: list[torch.Tensor],
    noise: list[torch.Tensor],
    gradients: list[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Write the head's `gradients`. Return the loss, the losses of the rows `[B]` and the hidden layer's gradient.

    `rainbow_reference.head_loss` is the same loss without the gradients.
    """
    count, atoms = len(latents), len(support)
    streams, logits = head_trace(torch.cat([latents, next_latents]), weights, weights[4].size(0) // atoms)
    best = torch.matmul(torch.softmax(logits[count:], 2), support).argmax(1)
    rows = torch.arange(count, device=best.device)
    targets = project(torch.softmax(target_logits[rows, best], 1), returns, discounts, support)
    log_probabilities = torch.log_softmax(logits[:count][rows, actions], 1)
    losses = -(targets * log_probabilities).sum(1)
    shares = importance / count  # the share of each row in the loss
    # The gradient of a cross-entropy by the logits of its softmax.
    slopes = (log_probabilities.exp() * targets.sum(1, keepdim=True) - targets) * shares[:, None]
    below = head_backward(latents, streams[:count], weights, noise, gradients, actions, slopes)
    return torch.dot(losses, shares), losses, below
