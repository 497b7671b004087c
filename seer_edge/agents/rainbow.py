"""Rainbow (Hessel et al. 2018): double, dueling, distributional, noisy, n-step; prioritized where the replay is."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seer_edge.agents.adam import Adam
from seer_edge.agents.c51 import project
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.heads import RainbowHead, Weights
from seer_edge.networks.spec import EncoderSpec, RainbowHeadSpec
from seer_edge.presets import RainbowSettings
from seer_runtime.replay import Batch


@dataclass(frozen=True)
class UpdateResult:
    """What one update learned."""

    loss: float
    priorities: NDArray[np.float32]  # [B], cross-entropy of each row


class RainbowAgent:
    """An encoder, a head, their targets and an optimizer.

    Before the freeze observations are frame stacks and the encoder stands in front of the head; from
    `freeze_encoder` on they are latents. Which of the two is never guessed from an array.
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
        self.device = torch.device(device)
        self.encoder_spec = encoder_spec
        self.head_spec = head_spec
        self.settings = settings
        self.updates = 0
        self.frozen = False
        init = torch.Generator().manual_seed(seed)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.encoder = Encoder(encoder_spec, init).to(self.device)
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
        latents = self._latents(self.encoder, self._tensor(observation[None]))
        return self._expectation(self.head(latents, weights))[0]

    def values(self, latents: torch.Tensor) -> torch.Tensor:
        """Q-values `[B, actions]` of `latents` `[B, L]` without noise."""
        return self._expectation(self.head(latents, self.head.mean_weights()))

    def _expectation(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        return log_probabilities.exp() @ self.support

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _latents(self, encoder: Encoder, observations: torch.Tensor) -> torch.Tensor:
        latents: torch.Tensor = observations if self.frozen else encoder(observations)
        return latents

    # --- learning ------------------------------------------------------------------------------------------

    def update(self, batch: Batch) -> UpdateResult:
        """One gradient step on the distributional n-step double-Q loss, weighted by importance."""
        observations, next_observations = map(self._tensor, (batch.observations, batch.next_observations))
        weights = self._weights if self._weights is not None else self.head.noisy_weights()
        targets = self._targets(next_observations, weights, self._tensor(batch.returns), self._tensor(batch.discounts))

        rows = torch.arange(len(batch.actions), device=self.device)
        actions = self._tensor(batch.actions).long()
        log_probabilities = self.head(self._latents(self.encoder, observations), weights)[rows, actions]
        losses = -(targets * log_probabilities).sum(dim=1)
        loss = (losses * self._tensor(batch.weights)).mean()

        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.optimizer.parameters.values(), self.settings.max_gradient_norm)
        self.optimizer.step()
        self._weights = None
        self.updates += 1
        if self.updates % self.settings.target_update_steps == 0:
            self.update_target()
        return UpdateResult(float(loss.detach()), losses.detach().cpu().numpy())

    @torch.no_grad()
    def _targets(
        self,
        next_observations: torch.Tensor,
        weights: tuple[Weights, ...],
        returns: torch.Tensor,
        discounts: torch.Tensor,
    ) -> torch.Tensor:
        """Target distributions `[B, atoms]`: the online network picks the action, the target network values it."""
        online = self.head(self._latents(self.encoder, next_observations), weights)
        best = self._expectation(online).argmax(dim=1)
        self.target_head.draw_noise(self.generator)
        latents = self._latents(self.target_encoder, next_observations)
        log_probabilities = self.target_head(latents, self.target_head.noisy_weights())
        rows = torch.arange(len(best), device=self.device)
        return project(log_probabilities[rows, best].exp(), returns, discounts, self.support)

    def update_target(self) -> None:
        """Copy the online network to the target network."""
        self.target_encoder.load_state_dict(self.encoder.state_dict())
        self.target_head.load_state_dict(self.head.state_dict())

    # --- the freeze ----------------------------------------------------------------------------------------

    def encoder_weights(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """(kernel, bias) of each convolution, as copies."""
        pairs: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        for conv in self.encoder.convs:
            kernel, bias = (parameter.detach().cpu().numpy().copy() for parameter in conv.parameters())
            pairs.append((kernel, bias))
        return pairs

    def encode(self, observations: NDArray[np.uint8]) -> torch.Tensor:
        """Latents `[B, L]` of frame stacks `[B, S, H, W]` by the online encoder, without gradient."""
        with torch.no_grad():
            latents: torch.Tensor = self.encoder(self._tensor(observations))
            return latents

    def freeze_encoder(self) -> None:
        """From now on observations are latents: tie the target's encoder, drop gradients and optimizer state."""
        self.target_encoder = self.encoder.requires_grad_(False)
        self.optimizer.drop([name for name in self.optimizer.parameters if name.startswith("encoder.")])
        self._weights = None
        self.frozen = True

    # --- state ---------------------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor that a checkpoint keeps, by name."""
        yield from (("encoder." + name, tensor) for name, tensor in self.encoder.state_dict().items())
        yield from (("head." + name, tensor) for name, tensor in self.head.state_dict().items())
        yield from (("target_encoder." + name, tensor) for name, tensor in self.target_encoder.state_dict().items())
        yield from (("target_head." + name, tensor) for name, tensor in self.target_head.state_dict().items())
        yield from (("optimizer." + name, tensor) for name, tensor in self.optimizer.state().items())

    def state_arrays(self) -> dict[str, NDArray[Any]]:
        """`tensors` as arrays, with the generator's state and the number of updates.

        On the CPU they are the tensors' own memory, so they hold until the next update.
        """
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in self.tensors()}
        return {**arrays, "generator": self.generator.get_state().numpy(), "updates": np.array(self.updates)}

    def load_arrays(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take on the state that `state_arrays` gave.

        Raises ValueError where the arrays are not this agent's, as those of one that is frozen when this one is not.
        """
        tensors = dict(self.tensors())
        differing = {*tensors, "generator", "updates"} ^ set(arrays)
        differing |= {name for name in tensors if name in arrays and tensors[name].shape != arrays[name].shape}
        if differing:
            raise ValueError(f"the arrays are of another agent: {', '.join(sorted(differing)[:3])} differ")
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(torch.from_numpy(arrays[name]))
        self.generator.set_state(torch.from_numpy(arrays["generator"]))
        self.updates = int(arrays["updates"])
