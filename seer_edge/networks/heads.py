"""Rainbow's head: noisy, dueling, distributional. It takes latents, always."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from seer_edge.networks.spec import RainbowHeadSpec

Weights = tuple[torch.Tensor, torch.Tensor]


class NoisyLinear(nn.Module):
    """`streams` linear layers side by side with factorised Gaussian noise (Fortunato et al. 2018, Section 3).

    All streams stand in one matrix `[streams * outputs, inputs]`; each has noise of its own. Gradients are written
    out and not left to autograd: with s and s' in one pass, that took 15 % off an update from latents.
    """

    noise_in: torch.Tensor  # [streams, 1, inputs]
    noise_out: torch.Tensor  # [streams, outputs, 1]
    noisy_weight: torch.Tensor  # [streams * outputs, inputs]

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
        self.register_buffer("noisy_weight", torch.zeros(rows, inputs), persistent=False)

    def draw_noise(self, generator: torch.Generator) -> None:
        """New noise, f(x) = sign(x) sqrt(|x|) of standard normals."""
        _draw_noise([self], generator)

    @torch.no_grad()
    def noisy(self) -> Weights:
        """Weight and bias under the present noise, mu + sigma * noise; the weight is valid until the next call."""
        weight = self._noise(self.noisy_weight)
        torch.addcmul(self.weight, self.weight_sigma, weight, out=weight)
        return weight, torch.addcmul(self.bias, self.bias_sigma, self.noise_out.flatten())

    def _noise(self, out: torch.Tensor) -> torch.Tensor:
        """The weights' noise, the outer product of inputs' and outputs', to `out` `[streams * outputs, inputs]`."""
        torch.mul(self.noise_out, self.noise_in, out=out.view(len(self.noise_out), -1, out.shape[1]))
        return out

    def mean(self) -> Weights:
        """Weight and bias without noise, for evaluation."""
        return self.weight, self.bias

    @torch.no_grad()
    def backward(self, inputs: torch.Tensor, gradients: torch.Tensor) -> None:
        """Set the parameters' gradients for a pass under `noisy` that took `inputs` `[B, inputs]`.

        `gradients` `[B, streams * outputs]` are those of its outputs.
        """
        weight, bias = _gradient(self.weight), _gradient(self.bias)
        torch.mm(gradients.t(), inputs, out=weight)
        torch.sum(gradients, dim=0, out=bias)
        self._noise(_gradient(self.weight_sigma)).mul_(weight)
        torch.mul(bias, self.noise_out.flatten(), out=_gradient(self.bias_sigma))


def _draw_noise(layers: Iterable[NoisyLinear], generator: torch.Generator) -> None:
    """New noise in all `layers`, in one draw: most of what it costs is the number of operations."""
    targets = [noise for layer in layers for noise in (layer.noise_in, layer.noise_out)]
    sizes = [noise.numel() for noise in targets]
    normals = torch.empty(sum(sizes), device=generator.device).normal_(generator=generator)
    drawn = torch.copysign(normals.abs().sqrt_(), normals)
    torch._foreach_copy_([noise.view(-1) for noise in targets], torch.split_with_sizes(drawn, sizes))


def _gradient(parameter: nn.Parameter) -> torch.Tensor:
    """Where the gradient of `parameter` stands."""
    if parameter.grad is None:
        parameter.grad = torch.empty_like(parameter)
    return parameter.grad


@dataclass(frozen=True)
class HeadPass:
    """One forward pass of a `RainbowHead`, kept for the way back."""

    latents: torch.Tensor  # [B, L]
    streams: torch.Tensor  # [B, 2 * hidden], after the ReLU
    logits: torch.Tensor  # [B, actions, atoms]

    def first(self, count: int) -> "HeadPass":
        """The same for the first `count` rows."""
        return HeadPass(self.latents[:count], self.streams[:count], self.logits[:count])


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
        _draw_noise(self._layers(), generator)

    def noisy_weights(self) -> tuple[Weights, ...]:
        """The layers' weights under the present noise, valid until the next call."""
        return tuple(layer.noisy() for layer in self._layers())

    def mean_weights(self) -> tuple[Weights, ...]:
        """The layers' weights without noise."""
        return tuple(layer.mean() for layer in self._layers())

    @torch.no_grad()
    def forward(self, latents: torch.Tensor, weights: tuple[Weights, ...]) -> torch.Tensor:
        """Log-probabilities `[B, actions, atoms]`: softmax of V + A - mean(A) an atom (Wang et al. 2016)."""
        return functional.log_softmax(self.trace(latents, weights).logits, dim=2)

    @torch.no_grad()
    def trace(self, latents: torch.Tensor, weights: tuple[Weights, ...]) -> HeadPass:
        """The pass up to the logits V + A - mean(A)."""
        hidden, value, advantage = weights
        streams = torch.relu_(functional.linear(latents, *hidden))
        values = functional.linear(streams[:, : self.spec.hidden], *value)
        logits = functional.linear(streams[:, self.spec.hidden :], *advantage)
        logits = logits.view(-1, self.spec.actions, self.spec.atoms)
        logits += (values - logits.mean(dim=1)).unsqueeze(1)
        return HeadPass(latents, streams, logits)

    @torch.no_grad()
    def backward(
        self, forward: HeadPass, actions: torch.Tensor, gradients: torch.Tensor, *, latents: bool
    ) -> torch.Tensor | None:
        """Set the parameters' gradients for a pass under `noisy_weights`.

        `gradients` `[B, atoms]` are those of the logits of `actions` `[B]`; the others' are zero. Returns the gradient
        of the latents `[B, L]` where `latents` asks for it.
        """
        # What each action's advantage has in the chosen action's logits: they are V + A - mean(A).
        shares = gradients.new_full(forward.logits.shape[:2], -1 / self.spec.actions)
        shares.scatter_(1, actions[:, None], 1 - 1 / self.spec.actions)
        advantages = (shares[:, :, None] * gradients[:, None]).flatten(1)
        self.value.backward(forward.streams[:, : self.spec.hidden], gradients)
        self.advantage.backward(forward.streams[:, self.spec.hidden :], advantages)
        streams = torch.cat([gradients @ self.value.noisy_weight, advantages @ self.advantage.noisy_weight], dim=1)
        streams = torch.ops.aten.threshold_backward(streams, forward.streams, 0)
        self.hidden.backward(forward.latents, streams)
        return streams @ self.hidden.noisy_weight if latents else None
