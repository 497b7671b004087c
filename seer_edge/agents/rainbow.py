"""Rainbow (Hessel et al. 2018): double, dueling, distributional, noisy, n-step; prioritized where the replay is."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from seer_edge.agents.adam import Adam
from seer_edge.agents.agent import Agent, UpdateResult, tie
from seer_edge.agents.c51 import project
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.heads import RainbowHead, Weights
from seer_edge.networks.spec import EncoderSpec, RainbowHeadSpec
from seer_edge.presets import RainbowSettings
from seer_runtime.replay import Batch


class RainbowAgent(Agent):
    """An encoder, a head, their targets and an optimizer. N = 1: the head takes the one latent of each observation."""

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
        super().__init__(Encoder(encoder_spec, init), seed=seed, device=device)
        self.settings = settings
        self.head = RainbowHead(head_spec, init, settings.noisy_sigma).to(self.device)
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_head = copy.deepcopy(self.head).requires_grad_(False)
        self.support = torch.linspace(*settings.value_range, head_spec.atoms, device=self.device)
        self.optimizer = Adam(
            dict(self._online().named_parameters()),
            learning_rate=settings.learning_rate,
            epsilon=settings.adam_epsilon,
        )
        self._weights: tuple[Weights, ...] | None = None

    def _online(self) -> nn.ModuleDict:
        return nn.ModuleDict({"encoder": self.encoder, "head": self.head})

    # --- acting --------------------------------------------------------------------------------------------

    def act(self, observation: NDArray[Any]) -> int:
        """The action for one observation under new noise; the update of the same step uses that noise too."""
        self.head.draw_noise(self.generator)
        self._weights = self.head.noisy_weights()
        with torch.no_grad():
            return int(self._values(observation, self._weights).argmax())

    def greedy(self, observation: NDArray[Any]) -> int:
        """The action for one observation without noise, for evaluation."""
        with torch.no_grad():
            return int(self._values(observation, self.head.mean_weights()).argmax())

    def _values(self, observation: NDArray[Any], weights: tuple[Weights, ...]) -> torch.Tensor:
        return self._expectation(self.head(self._observe(observation), weights).exp())[0]

    def outputs(self, latents: torch.Tensor) -> torch.Tensor:
        """Q-values `[B, actions]` of the frozen part's outputs `[B, 1, L]`, without noise."""
        with torch.no_grad():
            latents = self._latents_behind_the_cut(latents)
            return self._expectation(self.head(latents, self.head.mean_weights()).exp())

    def _expectation(self, probabilities: torch.Tensor) -> torch.Tensor:
        return probabilities @ self.support

    # --- learning ------------------------------------------------------------------------------------------

    def update(self, batch: Batch) -> UpdateResult:
        """One gradient step on the distributional n-step double-Q loss, weighted by importance."""
        weights = self._weights if self._weights is not None else self.head.noisy_weights()
        with torch.no_grad():
            next_inputs = self._inputs(batch.next_observations)
            next_latents, target_latents = self._latents(next_inputs, (self.encoder, 0), (self.target_encoder, 0))
        (latents,) = self._latents(self._inputs(batch.observations), (self.encoder, 0))

        with torch.no_grad():
            count = len(latents)
            forward = self.head.trace(torch.cat([latents, next_latents]), weights)
            best = self._expectation(functional.softmax(forward.logits[count:], dim=2)).argmax(dim=1)
            targets = self._targets(target_latents, best, self._tensor(batch.returns), self._tensor(batch.discounts))
            rows, actions = torch.arange(count, device=self.device), self._tensor(batch.actions).long()
            log_probabilities = functional.log_softmax(forward.logits[rows, actions], dim=1)
            losses = -(targets * log_probabilities).sum(dim=1)
            shares = self._tensor(batch.weights) / count  # of each row in the loss
            loss = losses @ shares

            self.encoder.zero_grad()
            # Of the cross-entropy, by the logits of a softmax.
            gradients = (log_probabilities.exp() * targets.sum(dim=1, keepdim=True) - targets) * shares[:, None]
            latent_gradients = self.head.backward(
                forward.first(count), actions, gradients, latents=latents.requires_grad
            )
        if latent_gradients is not None:
            # A scalar: torch imports its compiler stack to check the shape of any other root's gradient.
            (latents * latent_gradients).sum().backward()  # type: ignore[no-untyped-call]
        self.optimizer.clip(self.settings.max_gradient_norm)
        self.optimizer.step()
        self._weights = None
        self.updates += 1
        if self.updates % self.settings.target_update_steps == 0:
            self.update_target()
        return UpdateResult(float(loss), losses.cpu().numpy())

    def _targets(
        self, latents: torch.Tensor, best: torch.Tensor, returns: torch.Tensor, discounts: torch.Tensor
    ) -> torch.Tensor:
        """Target distributions `[B, atoms]`: the target network's of the `best` actions `[B]`, shifted."""
        self.target_head.draw_noise(self.generator)
        logits = self.target_head.trace(latents, self.target_head.noisy_weights()).logits
        rows = torch.arange(len(best), device=self.device)
        return project(functional.softmax(logits[rows, best], dim=1), returns, discounts, self.support)

    def update_target(self) -> None:
        """Copy the online network to the target network."""
        self.target_encoder.load_state_dict(self.encoder.state_dict())
        self.target_head.load_state_dict(self.head.state_dict())

    # --- the freeze ----------------------------------------------------------------------------------------

    def freeze_encoder(self, *, reads_latents: bool) -> None:
        """Freeze the encoder up to its cut (see `Agent`)."""
        frozen = self.encoder.frozen_parameters()
        for parameter in frozen.values():
            parameter.requires_grad_(False)
        tie(self.target_encoder, self.encoder, frozen)
        self.optimizer.drop(f"encoder.{name}" for name in frozen)
        self._weights = None
        self.frozen, self.reads_latents = True, reads_latents

    # --- state ---------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor that a checkpoint keeps, by name."""
        yield from (("encoder." + name, tensor) for name, tensor in self.encoder.state_dict().items())
        yield from (("head." + name, tensor) for name, tensor in self.head.state_dict().items())
        yield from (("target_encoder." + name, tensor) for name, tensor in self.target_encoder.state_dict().items())
        yield from (("target_head." + name, tensor) for name, tensor in self.target_head.state_dict().items())
        yield from (("optimizer." + name, tensor) for name, tensor in self.optimizer.state().items())
