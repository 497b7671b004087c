"""The hand-built graphs of the heads, run by ONNX Runtime, compared with the agents that they were built from."""

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from seer_edge.agents.curl_sac import CurlSacAgent
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.config.presets import RainbowSettings, SacSettings
from seer_edge.networks.graph import actor_graph, rainbow_graph
from seer_edge.networks.sac_spec import ACTOR, SacHeadSpec
from seer_edge.networks.spec import RainbowHeadSpec, encoder_spec
from seer_runtime.onnx.head import OnnxHead
from seer_runtime.system.ledger import Ledger

Arrays = dict[str, NDArray[Any]]


def _rainbow(actions: int, atoms: int, hidden: int, value_range: tuple[float, float] = (-10.0, 10.0)) -> RainbowAgent:
    encoder = encoder_spec("data-efficient", input_shape=(2, 42, 42))
    spec = RainbowHeadSpec(encoder.flat_size, hidden, actions, atoms)
    settings = RainbowSettings(atoms=atoms, hidden=hidden, value_range=value_range)
    agent = RainbowAgent(encoder, spec, settings, seed=actions)
    with torch.no_grad():
        for parameter in agent.head.parameters():
            parameter.mul_(3)  # opinions
    return agent


def _sac(actions: int, features: int = 7, hidden: int = 24) -> CurlSacAgent:
    encoder = encoder_spec("sac-ae", input_shape=(3, 25, 25), networks=2, features=features)
    agent = CurlSacAgent(encoder, SacHeadSpec(features, hidden, actions), SacSettings(features=features), seed=1)
    drawn = torch.Generator().manual_seed(2)
    with torch.no_grad():
        agent.actor.norm.weight.uniform_(0.5, 2, generator=drawn)
        agent.actor.norm.bias.uniform_(-1, 1, generator=drawn)
    return agent


def _part(agent: Any, prefix: str) -> Arrays:
    arrays = agent.state().arrays
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _rainbow_graph(agent: RainbowAgent) -> bytes:
    return rainbow_graph(agent.head.spec, agent.settings.value_range, _part(agent, "head."))


def _actor_graph(agent: CurlSacAgent) -> bytes:
    return actor_graph(agent.head_spec, ACTOR, 2, _part(agent, "actor."))


def _open(graph: bytes) -> OnnxHead:
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    return OnnxHead(graph, threads=1, ledger=Ledger({}))


@pytest.mark.parametrize(
    ("actions", "atoms", "hidden", "value_range"),
    [(1, 2, 3, (-1.0, 2.0)), (3, 11, 16, (-10.0, 10.0)), (18, 51, 256, (-10.0, 10.0)), (4, 51, 64, (0.0, 500.0))],
)
def test_q_values_are_those_of_torch(actions: int, atoms: int, hidden: int, value_range: tuple[float, float]) -> None:
    agent = _rainbow(actions, atoms, hidden, value_range)
    head = _open(_rainbow_graph(agent))
    assert (head.latent_shape, head.outputs) == (agent.encoder.spec.latent_shape, actions)
    rng = np.random.default_rng(5)
    chosen = set()
    for scale in (0.0, 0.1, 1.0, 10.0):
        for _ in range(20):
            latents = rng.normal(0, scale, head.latent_shape).clip(0).astype(np.float32)
            wanted = agent.outputs(torch.from_numpy(latents[None])).numpy()[0]
            got = head(latents).copy()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * max(map(abs, value_range)))
            chosen.add(int(got.argmax()))
    assert len(chosen) > 1 or actions == 1


@pytest.mark.parametrize("actions", [1, 6])
def test_mean_actions_are_those_of_torch(actions: int) -> None:
    agent = _sac(actions)
    agent.freeze_encoder(reads_latents=True)
    head = _open(_actor_graph(agent))
    rng = np.random.default_rng(6)
    for _ in range(50):
        latents = rng.normal(0, 3, (2, 7)).astype(np.float32)
        got = head(latents).copy()
        np.testing.assert_allclose(got, agent.greedy(latents), rtol=0, atol=1e-5)
        latents[0] = 0  # the critic's are not its own
        np.testing.assert_array_equal(head(latents), got)


def test_equal_weights_give_equal_bytes_and_noise_is_not_among_them() -> None:
    agent = _rainbow(3, 11, 16)
    graph = _rainbow_graph(agent)
    agent.head.draw_noise(agent.generator)
    assert _rainbow_graph(agent) == graph
    with torch.no_grad():
        agent.head.value.bias[0] += 1
    assert _rainbow_graph(agent) != graph
    assert _actor_graph(_sac(2)) == _actor_graph(_sac(2))


def test_weights_that_are_not_the_heads_are_refused() -> None:
    agent = _rainbow(3, 11, 16)
    arrays = _part(agent, "head.")
    wider = dataclasses.replace(agent.head.spec, actions=4)
    with pytest.raises(ValueError, match=r"needs a float32 weight advantage\.weight of shape \[44, 16\]"):
        rainbow_graph(wider, (-1, 1), arrays)
    del arrays["hidden.bias"]
    with pytest.raises(ValueError, match=r"hidden\.bias of shape \[32\]"):
        rainbow_graph(agent.head.spec, (-1, 1), arrays)
    with pytest.raises(ValueError, match=r"SAC's actor needs a float32 weight norm\.weight of shape \[7\]"):
        actor_graph(SacHeadSpec(7, 24, 1), ACTOR, 2, {})
