"""The heads of CURL + SAC: the tanh-Gaussian policy, the twin Qs and the bilinear form. They always take latents.

The encoder is cut before the layer norms, so the heads have them. As in CURL's code, no tanh follows them.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from seer_edge.networks.encoder import Linear
from seer_edge.networks.sac_spec import SacHeadSpec


class Perceptron(nn.Module):
    """Linear layers of `sizes` with ReLU between them. Weights start orthogonal, biases zero."""

    def __init__(self, sizes: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Linear((after, before), generator, orthogonal=True) for before, after in pairwise(sizes)
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map `[B, sizes[0]]` to `[B, sizes[-1]]`."""
        *_, outputs = self.each_layer(inputs)
        return outputs

    def each_layer(self, inputs: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the outputs of each layer for `[B, sizes[0]]`, those of hidden layers after the ReLU."""
        *hidden, last = self.layers
        for layer in hidden:
            inputs = torch.relu_(layer(inputs))
            yield inputs
        yield last(inputs)


class ActorHead(nn.Module):
    """Latents `[B, L]` to the policy: a Gaussian's mean and log standard deviation, each `[B, A]`, before tanh."""

    def __init__(self, spec: SacHeadSpec, log_std_range: tuple[float, float], generator: torch.Generator) -> None:
        super().__init__()
        self.log_std_range = log_std_range
        self.norm = nn.LayerNorm(spec.features, dtype=torch.float32)
        self.policy = Perceptron((spec.features, spec.hidden, spec.hidden, 2 * spec.actions), generator)

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log standard deviation. A tanh limits the latter to its range."""
        mean, log_std = self.policy(self.norm(latents)).chunk(2, dim=1)
        low, high = self.log_std_range
        return mean, low + (high - low) / 2 * (torch.tanh(log_std) + 1)


class CriticHead(nn.Module):
    """Latents `[B, L]` and actions `[B, A]` to two independent Q-values (Fujimoto et al. 2018)."""

    def __init__(self, spec: SacHeadSpec, generator: torch.Generator) -> None:
        super().__init__()
        sizes = spec.features + spec.actions, spec.hidden, spec.hidden, 1
        self.norm = nn.LayerNorm(spec.features, dtype=torch.float32)
        self.qs = nn.ModuleList(Perceptron(sizes, generator) for _ in range(2))

    @property
    def first(self) -> Perceptron:
        """The first of the two Qs."""
        q = self.qs[0]
        assert isinstance(q, Perceptron)
        return q

    def forward(self, latents: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Return Q-values `[2, B]`."""
        inputs = torch.cat([self.norm(latents), actions], dim=1)
        return torch.stack([q(inputs)[:, 0] for q in self.qs])


class Bilinear(nn.Module):
    """The similarity of CURL: anchors `W` positives (Srinivas et al. 2020, Section 4.5). W starts uniform in [0, 1)."""

    def __init__(self, features: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(features, features, generator=generator, dtype=torch.float32))

    def forward(self, anchors: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, B]` of `anchors` and `positives` `[B, L]`, one row for each anchor, with maximum 0."""
        logits = anchors @ (self.weight @ positives.T)
        return logits - logits.detach().amax(dim=1, keepdim=True)


def tanh_gaussian(mean: torch.Tensor, log_std: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return actions `[B, A]` in [-1, 1] and their log-probabilities `[B]` (Haarnoja et al. 2018, Appendix C).

    `mean`, `log_std` and the standard normal `noise` are `[B, A]`. The density of tanh(u) is the Gaussian's density at
    u divided by 1 - tanh(u)^2. The logarithm of the latter, 2 (log 2 - u - softplus(-2u)), is exact even where tanh(u)
    rounds to 1.
    """
    u = mean + log_std.exp() * noise
    log_gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - u - functional.softplus(-2 * u))
    return torch.tanh(u), (log_gaussian - log_slope).sum(dim=1)
