"""Rainbow's update by autograd: the version to read first, and the oracle of the tests.

`RainbowAgent.update` computes the same numbers up to rounding, with the head's gradients written by hand. Training does
not use this module. Decision 12 has the time that each of the two takes.
"""

import torch
from torch.nn import functional

from seer_edge.agents.agent import UpdateResult
from seer_edge.agents.c51 import project
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.networks.heads import NoisyLinear, RainbowHead
from seer_runtime.replay.replay import Batch


def noisy_linear(layer: NoisyLinear, inputs: torch.Tensor, stream: int = 0) -> torch.Tensor:
    """Apply one stream of a noisy layer, mu + sigma * noise, to `inputs` `[B, in]` (Fortunato et al. 2018, Eq. 9)."""
    noise_in, noise_out = layer.noise_in[stream, 0], layer.noise_out[stream, :, 0]
    rows = slice(stream * len(noise_out), (stream + 1) * len(noise_out))
    weight = layer.weight[rows] + layer.weight_sigma[rows] * torch.outer(noise_out, noise_in)
    bias = layer.bias[rows] + layer.bias_sigma[rows] * noise_out
    return functional.linear(inputs, weight, bias)


def logits(head: RainbowHead, latents: torch.Tensor) -> torch.Tensor:
    """Return logits `[B, actions, atoms]` of latents `[B, L]`: V + A - mean(A) (Wang et al. 2016, Eq. 9)."""
    value_stream, advantage_stream = (torch.relu(noisy_linear(head.hidden, latents, stream)) for stream in (0, 1))
    values = noisy_linear(head.value, value_stream)[:, None]
    advantages = noisy_linear(head.advantage, advantage_stream).view(-1, head.spec.actions, head.spec.atoms)
    dueling: torch.Tensor = values + advantages - advantages.mean(dim=1, keepdim=True)
    return dueling


def rainbow_loss(agent: RainbowAgent, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weighted mean loss, with a graph to every trained parameter, and the losses of the rows `[B]`.

    A row's loss is the cross-entropy between the target distribution and that of the action taken. The online network
    chooses the next action and the target network values it.
    """
    rows = torch.arange(len(batch.actions))
    latents, next_latents, target_latents = _latents(agent, batch)
    log_probabilities = logits(agent.head, latents).log_softmax(dim=2)
    with torch.no_grad():
        best = (logits(agent.head, next_latents).softmax(dim=2) @ agent.support).argmax(dim=1)
        probabilities = logits(agent.target_head, target_latents).softmax(dim=2)[rows, best]
        returns, discounts = torch.from_numpy(batch.returns), torch.from_numpy(batch.discounts)
        targets = project(probabilities, returns, discounts, agent.support)
    losses = -(targets * log_probabilities[rows, torch.from_numpy(batch.actions).long()]).sum(dim=1)
    return (torch.from_numpy(batch.weights) * losses).mean(), losses.detach()


def reference_update(agent: RainbowAgent, batch: Batch) -> UpdateResult:
    """Make the update of `RainbowAgent.update` by autograd, on the CPU, under the noise that `refresh` drew."""
    loss, losses = rainbow_loss(agent, batch)
    agent.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    agent.optimizer.clip(agent.settings.max_gradient_norm)
    agent.optimizer.step()
    agent.updates += 1
    return UpdateResult(float(loss.detach()), losses.numpy())


def _latents(agent: RainbowAgent, batch: Batch) -> list[torch.Tensor]:
    """Latents `[B, L]` of s and of s' by the online encoder, and of s' by the target encoder."""
    pairs = (
        (batch.observations, agent.encoder),
        (batch.next_observations, agent.encoder),
        (batch.next_observations, agent.target_encoder),
    )
    return [agent.latents_of(observations, encoder) for observations, encoder in pairs]
