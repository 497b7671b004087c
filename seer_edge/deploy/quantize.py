"""`export --int8`: quantize the encoder to int8, calibrated on frames that its policy sees. Imports no torch."""

import dataclasses
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan
from seer_edge.config.real_time import limits_asked
from seer_edge.envs.guarded import ending, open_guarded
from seer_edge.envs.paced import in_real_time
from seer_edge.envs.translate_errors import translate_errors
from seer_edge.errors import BadInputError
from seer_edge.networks.graph import encoder_graph, int8_graph, int8_layers
from seer_edge.networks.spec import EncoderSpec
from seer_runtime.onnx.check import check_int8
from seer_runtime.onnx.encoder import MAX_BATCH, OnnxEncoder
from seer_runtime.onnx.encoder_choice import ERROR_MAX, latent_error
from seer_runtime.policy.policy import Policy
from seer_runtime.system.ledger import Ledger

STEPS = 512
"""Agent steps to play. Their frame stacks are used alternately for calibration and for measuring the error."""
RANDOM_STEPS = 0.1
"""Fraction of random actions while playing."""
PROBES = 8
"""Frame stacks in the bundle, on which a device compares both encoders."""


@dataclasses.dataclass(frozen=True)
class Quantized:
    """A quantized encoder with its measured error."""

    graph: bytes  # the ONNX graph of the int8 encoder
    probe: NDArray[np.uint8]  # frame stacks [n, C, h, w] to compare both encoders on
    report: str  # one line with the error and the effect on actions


def quantize(
    plan: BytePlan, spec: EncoderSpec, weights: Mapping[str, NDArray[np.float32]], policy: Policy, graph: bytes
) -> Quantized:
    """Quantize the encoder `spec` with float32 `weights` and ONNX graph `graph`, calibrated on play of its `policy`.

    Raises BadInputError for an encoder that cannot be quantized, and where the environment cannot be used.
    """
    try:
        layers = int8_layers(spec)
    except ValueError as error:
        raise BadInputError(f"--int8: {error}; leave it out") from error
    stacks = _play(plan, policy)
    calibration, test = stacks[::2].copy(), stacks[1::2].copy()
    parts = (dataclasses.replace(spec, frozen_layers=index + 1) for index in range(len(layers)))
    quantized = int8_graph(spec, weights, [_largest(part, weights, calibration) for part in parts])
    float_encoder = OnnxEncoder(graph, threads=1, ledger=Ledger({}))
    int8_encoder = OnnxEncoder(quantized, threads=1, ledger=Ledger({}), check=check_int8)
    latent_difference = latent_error(float_encoder, int8_encoder, test)
    actions = [[policy.decide(encoder(stack[None])[0]) for stack in test] for encoder in (float_encoder, int8_encoder)]
    verdict = "" if latent_difference <= ERROR_MAX else ", too large for any device to use it"
    report = (
        f"int8 encoder: error {latent_difference:.2%} (limit {ERROR_MAX:.0%}) on {len(test)} stacks{verdict}; "
        f"{_compare_actions(np.array(actions[0]), np.array(actions[1]))}"
    )
    return Quantized(quantized, test[:: len(test) // PROBES][:PROBES].copy(), report)


def _compare_actions(exact: NDArray[Any], near: NDArray[Any]) -> str:
    """Return a phrase that compares two columns of actions, `[n]` discrete or `[n, A]` continuous."""
    if exact.ndim == 1:
        return f"the same action on {(exact == near).mean():.1%} of them"
    return f"controls differ by {np.abs(exact - near).mean():.3f} on average"


def _play(plan: BytePlan, policy: Policy) -> NDArray[np.uint8]:
    """Play with `policy`; return the encoder's inputs, uint8 `[STEPS, C, h, w]`, always the same for a plan."""
    config, rng = plan.config, np.random.default_rng(plan.config.seed)
    stacks = np.zeros((STEPS, *policy.spec.observation_shape), np.uint8)
    crop, held = policy.spec.crop, policy.perception.stack.frames
    with (
        translate_errors(config.env, config.env_options),
        closing(
            open_guarded(
                config.env,
                config.env_options,
                seed=config.seed,
                training=False,
                timeout_seconds=config.env_timeout_seconds,
                on_hang=ending("export"),
            )
        ) as env,
        in_real_time(env, limits_asked(config)) as playing,
    ):
        frame = playing.reset()
        for stack in stacks:
            action = policy.act_normalized(frame)
            crop.cut(held, crop.center, stack.reshape(*held.shape[:-2], *crop.size))
            step = playing.step(env.spec.actions.sample(rng) if rng.random() < RANDOM_STEPS else action)
            frame = step.frame
            if step.terminated or step.truncated:
                policy.reset()
                frame = playing.reset()
    return stacks


def _largest(part: EncoderSpec, weights: Mapping[str, NDArray[np.float32]], stacks: NDArray[np.uint8]) -> float:
    """Return the largest value in the maps of the lower layers `part` of the encoder over all `stacks`."""
    encoder = OnnxEncoder(encoder_graph(part, weights), threads=1, ledger=Ledger({}))
    batches = (stacks[start : start + MAX_BATCH] for start in range(0, len(stacks), MAX_BATCH))
    return max(float(encoder(batch).max()) for batch in batches)
