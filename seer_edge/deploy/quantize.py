"""`export --int8`: the encoder in whole numbers, calibrated on frames that its policy sees. No torch."""

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan
from seer_edge.envs.guarded import open_guarded
from seer_edge.envs.refusals import refusals
from seer_edge.errors import BadInputError
from seer_edge.networks.graph import encoder_graph, int8_graph, int8_layers
from seer_edge.networks.spec import EncoderSpec
from seer_runtime.onnx.check import check_int8
from seer_runtime.onnx.encoder import MAX_BATCH, OnnxEncoder
from seer_runtime.onnx.encoder_choice import ERROR_MAX, latent_error
from seer_runtime.policy.policy import Policy
from seer_runtime.system.ledger import Ledger

STEPS = 512
"""Of play, in turns for calibration and for measuring."""
RANDOM_STEPS = 0.1
PROBES = 8


@dataclasses.dataclass(frozen=True)
class Quantized:
    """An int8 encoder, stacks `[n, C, h, w]` to compare it on, and what it was found to be."""

    graph: bytes
    probe: NDArray[np.uint8]
    report: str


def quantize(
    plan: BytePlan, spec: EncoderSpec, weights: Mapping[str, NDArray[np.float32]], policy: Policy, graph: bytes
) -> Quantized:
    """The int8 form of the encoder `spec`, whose float32 form is `graph`.

    Raises BadInputError for an encoder that has none and where the environment cannot be played.
    """
    try:
        layers = int8_layers(spec)
    except ValueError as refusal:
        raise BadInputError(f"--int8: {refusal}; leave it out") from refusal
    stacks = _play(plan, policy)
    seen, later = stacks[::2].copy(), stacks[1::2].copy()
    parts = (dataclasses.replace(spec, frozen_layers=index + 1) for index in range(len(layers)))
    rounded = int8_graph(spec, weights, [_largest(part, weights, seen) for part in parts])
    exact = OnnxEncoder(graph, threads=1, ledger=Ledger({}))
    near = OnnxEncoder(rounded, threads=1, ledger=Ledger({}), check=check_int8)
    error = latent_error(exact, near, later)
    actions = [[policy.decide(encoder(stack[None])[0]) for stack in later] for encoder in (exact, near)]
    verdict = "" if error <= ERROR_MAX else ": no device will use it"
    report = (
        f"int8 encoder: error {error:.2%} of at most {ERROR_MAX:.0%} on {len(later)} stacks{verdict}; "
        f"{_beside(np.array(actions[0]), np.array(actions[1]))}"
    )
    return Quantized(rounded, later[:: len(later) // PROBES][:PROBES].copy(), report)


def _beside(exact: NDArray[Any], near: NDArray[Any]) -> str:
    if exact.ndim == 1:
        return f"the same action on {(exact == near).mean():.1%} of them"
    return f"controls {np.abs(exact - near).mean():.3f} apart on average"


def _play(plan: BytePlan, policy: Policy) -> NDArray[np.uint8]:
    """What the encoder is given while its policy plays, `[STEPS, C, h, w]`; the same for the same plan."""
    config, rng = plan.config, np.random.default_rng(plan.config.seed)
    stacks = np.zeros((STEPS, *policy.spec.observation_shape), np.uint8)
    crop, held = policy.spec.crop, policy.perception.stack.frames
    with (
        refusals(config.env, config.env_options),
        closing(open_guarded(config.env, config.env_options, seed=config.seed, training=False)) as env,
    ):
        frame = env.reset()
        for stack in stacks:
            action = policy.act(frame)
            crop.cut(held, crop.center, stack.reshape(*held.shape[:-2], *crop.size))
            step = env.step(env.spec.actions.sample(rng) if rng.random() < RANDOM_STEPS else action)
            frame = step.frame
            if step.terminated or step.truncated:
                policy.reset()
                frame = env.reset()
    return stacks


def _largest(part: EncoderSpec, weights: Mapping[str, NDArray[np.float32]], stacks: NDArray[np.uint8]) -> float:
    """The largest value in the maps that a part of the encoder gives."""
    encoder = OnnxEncoder(encoder_graph(part, weights), threads=1, ledger=Ledger({}))
    batches = (stacks[start : start + MAX_BATCH] for start in range(0, len(stacks), MAX_BATCH))
    return max(float(encoder(batch).max()) for batch in batches)
