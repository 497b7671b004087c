"""Rainbow's targets and losses in plain numpy, one row at a time."""

import math

import numpy as np
from numpy.typing import NDArray

from seer_runtime.replay.replay import Batch
from tests.seer_edge.rainbow_rig import (
    ATOMS,
    ENCODER,
    HEAD,
    Arrays,
    Real,
)


def naive_latents(arrays: Arrays, encoder: str, stacks: NDArray[np.uint8]) -> Real:
    latents = []
    for stack in stacks:
        hidden = stack.astype(np.float64) / 255
        for index, conv in enumerate(ENCODER.layers):
            kernel = arrays[f"{encoder}.convs.{index}.weight"].astype(np.float64)
            bias = arrays[f"{encoder}.convs.{index}.bias"].astype(np.float64)
            height, width = ((side - conv.kernel) // conv.stride + 1 for side in hidden.shape[1:])
            out = np.zeros((conv.filters, height, width))
            for y in range(height):
                for x in range(width):
                    top, left = y * conv.stride, x * conv.stride
                    patch = hidden[:, top : top + conv.kernel, left : left + conv.kernel]
                    out[:, y, x] = np.tensordot(kernel, patch, axes=3) + bias
            hidden = np.maximum(out, 0)
        latents.append(hidden.ravel())
    return np.array(latents)


def naive_layer(arrays: Arrays, layer: str, noise: Arrays | None, stream: int, inputs: Real) -> Real:
    """One stream of a noisy layer on one row; `noise` holds the buffers, None is no noise."""
    weight, bias = arrays[f"{layer}.weight"].astype(np.float64), arrays[f"{layer}.bias"].astype(np.float64)
    outputs = len(weight) // (2 if layer.endswith("hidden") else 1)
    rows = slice(stream * outputs, (stream + 1) * outputs)
    if noise is None:
        return weight[rows] @ inputs + bias[rows]
    eps_in, eps_out = noise[f"{layer}.noise_in"][stream, 0], noise[f"{layer}.noise_out"][stream, :, 0]
    weight = weight[rows] + arrays[f"{layer}.weight_sigma"][rows] * np.outer(eps_out, eps_in)
    return weight @ inputs + bias[rows] + arrays[f"{layer}.bias_sigma"][rows] * eps_out


def naive_log_probabilities(arrays: Arrays, head: str, latent: Real, noise: Arrays | None) -> Real:
    """`[actions, atoms]` of one row."""
    value_stream = np.maximum(naive_layer(arrays, f"{head}.hidden", noise, 0, latent), 0)
    advantage_stream = np.maximum(naive_layer(arrays, f"{head}.hidden", noise, 1, latent), 0)
    value = naive_layer(arrays, f"{head}.value", noise, 0, value_stream)
    advantage = naive_layer(arrays, f"{head}.advantage", noise, 0, advantage_stream).reshape(HEAD.actions, HEAD.atoms)
    logits = value + advantage - advantage.mean(axis=0)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def naive_projection(probabilities: Real, n_return: float, discount: float) -> Real:
    projected = np.zeros(HEAD.atoms)
    for probability, atom in zip(probabilities, ATOMS, strict=True):
        b = (min(max(n_return + discount * atom, ATOMS[0]), ATOMS[-1]) - ATOMS[0]) / (ATOMS[1] - ATOMS[0])
        lower = min(math.floor(b), HEAD.atoms - 2)
        projected[lower] += probability * (lower + 1 - b)
        projected[lower + 1] += probability * (b - lower)
    return projected


def naive_choices(
    arrays: Arrays, encoder: str, head: str, noise: Arrays | None, stacks: NDArray[np.uint8]
) -> list[int]:
    latents = naive_latents(arrays, encoder, stacks)
    return [int((np.exp(naive_log_probabilities(arrays, head, z, noise)) @ ATOMS).argmax()) for z in latents]


def naive_targets(arrays: Arrays, noise: Arrays, batch: Batch) -> list[Real]:
    """`arrays` as before the update, `noise` as it was drawn for it."""
    best = naive_choices(arrays, "encoder", "head", noise, batch.next_observations.array)
    targets = []
    for row, latent in enumerate(naive_latents(arrays, "target_encoder", batch.next_observations.array)):
        probabilities = np.exp(naive_log_probabilities(arrays, "target_head", latent, noise)[best[row]])
        targets.append(naive_projection(probabilities, float(batch.returns[row]), float(batch.discounts[row])))
    return targets


def naive_losses(arrays: Arrays, noise: Arrays, batch: Batch, targets: list[Real]) -> list[float]:
    losses = []
    for row, latent in enumerate(naive_latents(arrays, "encoder", batch.observations.array)):
        log_probabilities = naive_log_probabilities(arrays, "head", latent, noise)[batch.actions[row]]
        losses.append(-sum(m * log_p for m, log_p in zip(targets[row], log_probabilities, strict=True)))
    return losses
