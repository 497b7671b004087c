"""Outputs of layers, their matrices, latent statistics, and the measures of runs with known snapshots."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seer_edge.agents.agent import Agent
from seer_edge.agents.curl_sac import CurlSacAgent
from seer_edge.agents.dqn import DqnAgent
from seer_edge.analysis.figures import AnalyzedRun, all_figures, maps_csv, similarity_csv
from seer_edge.analysis.latents import latent_statistics
from seer_edge.analysis.layers import SnapshotEncoder, layer_names
from seer_edge.analysis.measure import Probe, measure, neurons, pairs_of
from seer_edge.errors import BadInputError
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.spec import ENCODERS, EncoderSpec
from seer_edge.runs.snapshots import Snapshots, Weights
from seer_runtime import durable
from tests.seer_edge import curl_sac_rig, rainbow_rig, test_dqn

ALL_FILLED = np.ones(40, np.bool_)
AGENT = rainbow_rig.new_agent()
"""For snapshots without weights of heads."""


def spec_of(name: str, side: int = 42, **changes: Any) -> EncoderSpec:
    return EncoderSpec(name, ENCODERS[name], (4, side, side), **changes)


def weights_of(spec: EncoderSpec, seed: int) -> Weights:
    state = Encoder(spec, torch.Generator().manual_seed(seed)).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


def stacks_of(spec: EncoderSpec, rows: int = 40) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (rows, *spec.input_shape), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("data-efficient", ["conv 1", "conv 2"]),
        ("canonical", ["conv 1", "conv 2", "conv 3"]),
        ("impala", [kind for n in (1, 2, 3) for kind in (f"conv {n}", f"residual {2 * n - 1}", f"residual {2 * n}")]),
    ],
)
def test_the_last_outputs_are_those_of_the_encoder(name: str, layers: list[str]) -> None:
    spec = spec_of(name)
    encoder, stacks = SnapshotEncoder(spec, weights_of(spec, 0), AGENT), stacks_of(spec, 2)
    outputs = encoder.outputs(stacks)
    assert list(outputs) == list(layer_names(spec)) == layers
    maps = np.maximum(outputs[layers[-1]], 0)  # impala ends with a ReLU, which the others have already
    np.testing.assert_allclose(maps.reshape(2, 1, -1), encoder.latents(stacks), rtol=1e-4, atol=1e-5)


def test_the_fcs_of_both_networks_are_layers() -> None:
    spec = spec_of("sac-ae", networks=2, features=7)
    encoder, stacks = SnapshotEncoder(spec, weights_of(spec, 0), AGENT), stacks_of(spec, 2)
    outputs = encoder.outputs(stacks)
    assert list(outputs)[-2:] == ["critic fc", "actor fc"]
    both = np.stack([outputs["critic fc"], outputs["actor fc"]], axis=1)
    np.testing.assert_allclose(both, encoder.latents(stacks), rtol=1e-4, atol=1e-5)


def test_latents_end_at_the_layers_that_are_frozen() -> None:
    spec = spec_of("canonical", frozen_layers=2)
    encoder, stacks = SnapshotEncoder(spec, weights_of(spec, 0), AGENT), stacks_of(spec, 2)
    expected = encoder.outputs(stacks)["conv 2"].reshape(2, 1, -1)
    np.testing.assert_allclose(encoder.latents(stacks), expected, rtol=1e-4, atol=1e-5)


def test_neurons_are_channels_and_every_position_is_a_row() -> None:
    outputs = np.arange(2 * 3 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2)
    matrix = neurons(outputs, observations=2, first=0)
    assert matrix.tolist() == [outputs[b, :, y, x].tolist() for b in range(2) for y in range(2) for x in range(2)]


def test_positions_that_are_too_many_are_thinned_out_equally(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seer_edge.analysis.measure.ROWS_MAX", 100)
    observations, positions = 60, 4 * 5
    place = np.broadcast_to(np.arange(positions, dtype=np.float32).reshape(1, 1, 4, 5), (observations, 1, 4, 5))
    pieces = [neurons(place[start : start + 7], observations, start) for start in range(0, observations, 7)]
    found = np.concatenate(pieces)
    assert found.tolist() == neurons(place, observations, 0).tolist()  # for any size of batches
    counts = np.unique(found, return_counts=True)[1]
    assert len(counts) == positions
    assert counts.max() - counts.min() <= 1
    assert 80 <= len(found) <= 100


def test_each_snapshot_is_paired_with_the_first_one_that_is_far_enough() -> None:
    assert pairs_of([0, 10, 20, 45], 1) == [(0, 10), (10, 20), (20, 45)]
    assert pairs_of([0, 10, 20, 45], 20) == [(0, 20), (10, 45), (20, 45)]
    assert pairs_of([0, 10], 11) == []
    assert pairs_of([5], 1) == []


def test_latent_statistics_count_dead_dimensions_and_clipped_elements() -> None:
    latents = np.zeros((40, 1, 3), np.float32)
    latents[:, 0, 0] = np.linspace(0, 1, 40)
    latents[:, 0, 1] = 0.5
    latents[7, 0, 0] = 100.0  # calibrated on even rows
    found = latent_statistics(9, latents, ALL_FILLED)
    assert (found.step, found.dimensions, found.dead, found.low, found.high) == (9, 3, 2, 0.0, 100.0)
    assert (found.widest, found.median_width) == (100.0, 0.0)
    # Of the 20 held-out rows of 3 elements, one has one element beyond the range. float32 has no range.
    assert found.clip_rates == {"float32": None, "float16": None, "uint8": 1 / 60, "uint4": 1 / 60}


def test_stacks_with_blank_frames_do_not_calibrate_a_codec() -> None:
    latents = np.random.default_rng(0).uniform(0, 1, (40, 1, 4)).astype(np.float32)
    latents[::4] = 50.0
    filled = np.arange(40) % 4 != 0
    assert latent_statistics(0, latents, filled).clip_rates["uint8"] == pytest.approx(10 / 25, abs=0.05)
    assert latent_statistics(0, latents, ALL_FILLED).clip_rates["uint8"] == 0


def test_equal_snapshots_are_alike_and_others_are_not(tmp_path: Path) -> None:
    spec = spec_of("data-efficient")
    first, second = weights_of(spec, 0), weights_of(spec, 1)
    snapshots = {0: first, 10: first, 20: second}
    probe, seen = Probe(stacks_of(spec), ALL_FILLED), []
    measured = measure(
        spec, AGENT, [0, 10, 20], snapshots.__getitem__, probe, pairs_of([0, 10, 20], 1), lambda *a: seen.append(a)
    )
    # three snapshots of 40 observations, and two comparisons that count as much
    assert [seen[place] for place in (0, 1, -2, -1)] == [("layers", done, 200) for done in (32, 40, 160, 200)]
    assert sorted(seen) == seen
    for found in measured.similarities:
        # 64 positions of the first convolution, 1 of the second, whose channels are as many as its rows
        same = found.step == 0
        assert found.cka == pytest.approx(1, abs=1e-6) if same else 0 < found.cka < 0.9
        assert found.rows == (40 * 64 if found.layer == "conv 1" else 40)
    assert [(found.layer, found.step, found.later) for found in measured.similarities][:2] == [
        ("conv 1", 0, 10),
        ("conv 2", 0, 10),
    ]
    changes = {(found.layer, found.step): found.distance for found in measured.changes}
    assert changes["conv 1", 20] == 0
    assert changes["conv 1", 0] == changes["conv 1", 10] > 0
    assert measured.maps["conv 1"].shape == (3, 6, 8, 8)
    assert measured.maps["conv 1"].sum(axis=(2, 3)) == pytest.approx(np.ones((3, 6)), abs=1e-5)
    assert [found.step for found in measured.latents] == [0, 10, 20]
    run = AnalyzedRun("run", measured, 40, frozen_at=20)
    assert {figure.name for figure in all_figures([run])} == {
        "svcca",
        "cka",
        "attention_change",
        "dead",
        "ranges",
        "clip_rate",
    }
    assert similarity_csv([run]).splitlines()[1].startswith("run,conv 1,0,10,2560,1,1")
    assert len(maps_csv(run, "conv 1").splitlines()) == 1 + 3 * 6 * 8


def test_the_frames_of_a_picture_are_the_newest_ones() -> None:
    gray = np.arange(4, dtype=np.uint8).reshape(1, 4, 1, 1)
    assert Probe(gray, np.ones(1, np.bool_)).frames()[0].tolist() == [[3]]
    color = np.arange(9, dtype=np.uint8).reshape(1, 9, 1, 1)
    assert Probe(color, np.ones(1, np.bool_), channels=3).frames()[0].tolist() == [[[6, 7, 8]]]


def test_snapshots_are_read_back_dropped_and_copied(tmp_path: Path) -> None:
    spec = spec_of("data-efficient")
    snapshots, weights = Snapshots(tmp_path / "analysis"), weights_of(spec, 0)
    assert snapshots.steps() == []
    for step in (0, 5, 70):
        snapshots.write(step, weights)
    (tmp_path / "analysis" / "notes.txt").write_text("not a snapshot")
    assert snapshots.steps() == [0, 5, 70]
    found = snapshots.read(5, spec.weight_shapes, {})
    assert all((found[name] == weights[name]).all() for name in weights)
    other = Snapshots(tmp_path / "other")
    snapshots.copy_to(other, until=5)
    assert other.steps() == [0, 5]
    snapshots.drop_after(5)
    assert snapshots.steps() == [0, 5]


def test_a_snapshot_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    spec = spec_of("data-efficient")
    snapshots, weights = Snapshots(tmp_path), weights_of(spec, 0)
    snapshots.write(0, weights)
    snapshots.path(1).write_bytes(snapshots.path(0).read_bytes()[:-8])
    snapshots.write(2, {**weights, "convs.0.bias": np.full(32, np.nan, np.float32)})
    snapshots.path(3).mkdir()
    with pytest.raises(BadInputError, match=r"step_0000000001.safetensors: damaged \(.*remove it"):
        snapshots.read(1, spec.weight_shapes, {})
    with pytest.raises(BadInputError, match="holds a weight that is not finite"):
        snapshots.read(2, spec.weight_shapes, {})
    with pytest.raises(BadInputError, match="damaged"):
        snapshots.read(3, spec.weight_shapes, {})
    with pytest.raises(BadInputError, match="weights of another network"):
        snapshots.read(0, spec_of("canonical").weight_shapes, {})
    with pytest.raises(BadInputError, match="cannot be read"):
        snapshots.read(4, spec.weight_shapes, {})
    assert durable.read_tensors(snapshots.path(0)).keys() == spec.weight_shapes.keys()


# --- heads -------------------------------------------------------------------------------------------------


def shapes_of(weights: Weights) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in weights.items()}


def head_alone(agent: Agent, latents: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the head's layers in float64 by their definition, from the agent's state."""
    arrays = {name: tensor.detach().numpy().astype(np.float64) for name, tensor in agent.tensors()}

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

    def perceptron(x: np.ndarray, name: str) -> list[np.ndarray]:
        first = np.maximum(linear(x, f"{name}.layers.0"), 0)
        second = np.maximum(linear(first, f"{name}.layers.1"), 0)
        return [first, second, linear(second, f"{name}.layers.2")]

    if isinstance(agent, CurlSacAgent):
        of_actor = perceptron(normed(latents[:, 1], "actor.norm"), "actor.policy")
        actions = np.tanh(of_actor[-1][:, : of_actor[-1].shape[1] // 2])
        of_critic = perceptron(np.hstack([normed(latents[:, 0], "critic.norm"), actions]), "critic.qs.0")
        names = ("hidden 1", "hidden 2", "output")
        both = (("critic", of_critic), ("actor", of_actor))
        return {f"{head} {name}": x for head, found in both for name, x in zip(names, found, strict=True)}
    hidden = np.maximum(linear(latents[:, 0], "head.hidden"), 0)
    if isinstance(agent, DqnAgent):
        return {"head hidden": hidden, "head values": linear(hidden, "head.values")}
    units = hidden.shape[1] // 2
    of_value, of_advantage = linear(hidden[:, :units], "head.value"), linear(hidden[:, units:], "head.advantage")
    return {"head hidden": hidden, "head value": of_value, "head advantage": of_advantage}


def learner(name: str, seed: int) -> tuple[Agent, EncoderSpec]:
    """An agent whose weights all differ from zero."""
    if name == "rainbow":
        return rainbow_rig.agent_with_opinions(seed), rainbow_rig.ENCODER
    if name == "dqn":
        return test_dqn.make_agent(seed), test_dqn.ENCODER
    agent, generator = curl_sac_rig.make_agent(seed=seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in agent.networks.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return agent, curl_sac_rig.SPEC


def snapshot_of(agent: Agent) -> Weights:
    return {**agent.encoder_weights(), **agent.head_weights()}


@pytest.mark.parametrize("name", ["rainbow", "dqn", "curl-sac"])
def test_layers_of_heads_have_the_weights_of_the_snapshot(name: str) -> None:
    agent, spec = learner(name, 0)
    other = learner(name, 1)[0]
    stacks = stacks_of(spec, 5)
    encoder = SnapshotEncoder(spec, snapshot_of(agent), other)
    wanted = head_alone(agent, encoder.latents(stacks).astype(np.float64))
    found = encoder.outputs(stacks)
    assert list(found) == [*layer_names(spec), *wanted]
    for layer, outputs in wanted.items():
        np.testing.assert_allclose(found[layer], outputs, rtol=1e-4, atol=1e-4, err_msg=layer)


@pytest.mark.parametrize("name", ["rainbow", "dqn", "curl-sac"])
def test_a_head_that_changes_is_compared_where_both_snapshots_have_it(name: str) -> None:
    first, spec = learner(name, 0)
    last = learner(name, 1)[0]
    same, changed = snapshot_of(first), {**first.encoder_weights(), **last.head_weights()}
    snapshots = {0: first.encoder_weights(), 10: same, 20: same, 30: changed}
    steps = list(snapshots)
    probe = Probe(stacks_of(spec), ALL_FILLED)
    measured = measure(spec, last, steps, snapshots.__getitem__, probe, pairs_of(steps, 1), lambda *args: None)
    heads = set(last.head_outputs(torch.zeros(1, *spec.latent_shape)))
    assert {found.layer for found in measured.similarities if found.step == 0} == set(layer_names(spec))
    assert set(measured.layers) == heads | set(layer_names(spec))
    for found in measured.similarities:
        if found.step == 20 and found.layer in heads:
            assert found.cka < 0.99, found
        elif found.step in (10, 20):
            assert found.cka == pytest.approx(1, abs=1e-6), found


def test_snapshots_with_and_without_heads_are_read(tmp_path: Path) -> None:
    agent = rainbow_rig.new_agent()
    snapshots, encoder, heads = Snapshots(tmp_path), agent.encoder_weights(), agent.head_weights()
    snapshots.write(0, encoder)
    snapshots.write(1, {**encoder, **heads})
    snapshots.write(2, {**encoder, "head.hidden.bias": heads["head.hidden.bias"]})
    assert snapshots.read(0, shapes_of(encoder), shapes_of(heads)).keys() == encoder.keys()
    assert snapshots.read(1, shapes_of(encoder), shapes_of(heads)).keys() == {*encoder, *heads}
    with pytest.raises(BadInputError, match="weights of another network"):
        snapshots.read(2, shapes_of(encoder), shapes_of(heads))
    assert not [name for name in heads if "sigma" in name]
