"""Rainbow's head: noisy, dueling, distributional. It takes latents, always."""

import math

import torch
from torch import nn
from torch.nn import functional

from seer_edge.networks.spec import RainbowHeadSpec

Weights = tuple[torch.Tensor, torch.Tensor]


class NoisyLinear(nn.Module):
    """`streams` linear layers side by side with factorised Gaussian noise (Fortunato et al. 2018, Section 3).

    All streams stand in one matrix `[streams * outputs, inputs]`; each has noise of its own.
    """

    noise_in: torch.Tensor  # [streams, 1, inputs]
    noise_out: torch.Tensor  # [streams, outputs, 1]

    def __init__(
        self, inputs: int, outputs: int, generator: torch.Generator, *, streams: int = 1, sigma: float = 0.1
    ) -> None:
        super().__init__()
        bound, rows = 1 / math.sqrt(inputs), streams * outputs
        self.weight = nn.Parameter(torch.empty(rows, inputs).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(rows).uniform_(-bound, bound, generator=generator))
        self.weight_sigma = nn.Parameter(torch.full((rows, inputs), sigma / math.sqrt(inputs)))
        self.bias_sigma = nn.Parameter(torch.full((rows,), sigma / math.sqrt(outputs)))
        self.register_buffer("noise_in", torch.zeros(streams, 1, inputs))
        self.register_buffer("noise_out", torch.zeros(streams, outputs, 1))

    def draw_noise(self, generator: torch.Generator) -> None:
        """New noise, f(x) = sign(x) sqrt(|x|) of standard normals."""
        for noise in (self.noise_in, self.noise_out):
            noise.normal_(generator=generator)
            noise.copy_(noise.sign() * noise.abs().sqrt_())

    def noisy(self) -> Weights:
        """Weight and bias under the present noise, differentiable: mu + sigma * noise."""
        noise = (self.noise_out * self.noise_in).view_as(self.weight)
        weight = torch.addcmul(self.weight, self.weight_sigma, noise)
        return weight, torch.addcmul(self.bias, self.bias_sigma, self.noise_out.flatten())

    def mean(self) -> Weights:
        """Weight and bias without noise, for evaluation."""
        return self.weight, self.bias


class RainbowHead(nn.Module):
    """Latents `[B, L]` to log-probabilities over atoms `[B, actions, atoms]`.

    The weights are materialized once and passed in, so that acting and learning in one step share them.
    """

    def __init__(self, spec: RainbowHeadSpec, generator: torch.Generator, sigma: float = 0.1) -> None:
        super().__init__()
        self.spec = spec
        self.hidden = NoisyLinear(spec.latent_size, spec.hidden, generator, streams=2, sigma=sigma)
        self.value = NoisyLinear(spec.hidden, spec.atoms, generator, sigma=sigma)
        self.advantage = NoisyLinear(spec.hidden, spec.actions * spec.atoms, generator, sigma=sigma)

    def _layers(self) -> tuple[NoisyLinear, ...]:
        return self.hidden, self.value, self.advantage

    def draw_noise(self, generator: torch.Generator) -> None:
        """New noise in every layer."""
        for layer in self._layers():
            layer.draw_noise(generator)

    def noisy_weights(self) -> tuple[Weights, ...]:
        """The layers' weights under the present noise."""
        return tuple(layer.noisy() for layer in self._layers())

    def mean_weights(self) -> tuple[Weights, ...]:
        """The layers' weights without noise."""
        return tuple(layer.mean() for layer in self._layers())

    def forward(self, latents: torch.Tensor, weights: tuple[Weights, ...]) -> torch.Tensor:
        """Log-probabilities `[B, actions, atoms]`: softmax of V + A - mean(A) an atom (Wang et al. 2016)."""
        hidden, value, advantage = weights
        streams = torch.relu_(functional.linear(latents, *hidden))
        values = functional.linear(streams[:, : self.spec.hidden], *value).unsqueeze(1)
        advantages = functional.linear(streams[:, self.spec.hidden :], *advantage)
        advantages = advantages.view(-1, self.spec.actions, self.spec.atoms)
        logits = values + advantages - advantages.mean(dim=1, keepdim=True)
        return functional.log_softmax(logits, dim=2)
