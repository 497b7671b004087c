"""seer-edge's Adam compared with torch's, and the packages that it does not import."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from seer_edge.agents.adam import Adam

SHAPES = {"matrix": (7, 5), "kernel": (4, 3, 5, 5), "vector": (9,), "one": (1,), "scalar": ()}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _parameters(seed: int = 0) -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def _give_gradients(parameters: dict[str, torch.nn.Parameter], generator: torch.Generator) -> None:
    """Set gradients from tiny ones, for which epsilon matters, to large ones. Some are exactly zero."""
    for parameter in parameters.values():
        scale = 10.0 ** torch.randint(-6, 3, (), generator=generator)
        gradient = torch.randn(parameter.shape, generator=generator) * scale
        parameter.grad = gradient * (torch.rand(parameter.shape, generator=generator) > 0.2)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("learning_rate", "betas", "epsilon"), [(1e-4, (0.9, 0.999), 1.5e-4), (1e-2, (0.5, 0.9), 1e-8)]
)
def test_fifty_steps_are_those_of_torch(
    fused: bool, learning_rate: float, betas: tuple[float, float], epsilon: float
) -> None:
    ours, theirs = _parameters(), _parameters()
    adam = Adam(ours, learning_rate=learning_rate, betas=betas, epsilon=epsilon)
    reference = torch.optim.Adam(theirs.values(), lr=learning_rate, betas=betas, eps=epsilon, fused=fused)
    generators = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for _ in range(50):
        _give_gradients(ours, generators[0])
        _give_gradients(theirs, generators[1])
        adam.step()
        reference.step()
        for name in SHAPES:
            if fused:
                assert torch.equal(ours[name], theirs[name]), name
            else:
                torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    start = _parameters()
    assert all(not torch.equal(ours[name], start[name]) for name in SHAPES)


def test_dropped_parameters_leave_the_others_as_they_were() -> None:
    dropping, keeping = _parameters(), _parameters()
    adams = [Adam(parameters, learning_rate=1e-3) for parameters in (dropping, keeping)]
    generators = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)

    def step(count: int) -> None:
        for _ in range(count):
            for adam, parameters, generator in zip(adams, (dropping, keeping), generators, strict=True):
                _give_gradients(parameters, generator)
                adam.step()

    step(5)
    kept = {key: tensor.clone() for key, tensor in adams[0].state().items() if "kernel" not in key}
    adams[0].drop(["kernel"])
    assert dropping["kernel"].grad is None
    assert adams[0].state().keys() == kept.keys()
    assert all(torch.equal(adams[0].state()[key], tensor) for key, tensor in kept.items())
    frozen = dropping["kernel"].clone()
    step(5)
    assert torch.equal(dropping["kernel"], frozen)
    assert not torch.equal(keeping["kernel"], frozen)
    for name in SHAPES.keys() - {"kernel"}:
        assert torch.equal(dropping[name], keeping[name])


def test_a_parameter_without_gradient_is_named_and_nothing_moves() -> None:
    parameters = _parameters()
    adam = Adam(parameters, learning_rate=1e-3)
    _give_gradients(parameters, torch.Generator().manual_seed(3))
    parameters["vector"].grad = None
    parameters["one"].grad = None
    with pytest.raises(ValueError, match="no gradient for vector, one"):
        adam.step()
    assert all(torch.equal(parameter, _parameters()[name]) for name, parameter in parameters.items())
    assert all(not tensor.any() for tensor in adam.state().values())


def test_zero_grad_drops_every_gradient() -> None:
    parameters = _parameters()
    adam = Adam(parameters, learning_rate=1e-3)
    _give_gradients(parameters, torch.Generator().manual_seed(3))
    adam.zero_grad()
    assert all(parameter.grad is None for parameter in parameters.values())


@pytest.mark.parametrize("share", [0.5, 1.5, 1e3])
def test_clipping_is_that_of_torch(share: float) -> None:
    ours, theirs = _parameters(), _parameters()
    for parameters in (ours, theirs):
        _give_gradients(parameters, torch.Generator().manual_seed(3))
    norm = float(torch.nn.utils.get_total_norm(parameter.grad for parameter in theirs.values()))
    Adam(ours, learning_rate=1e-3).clip(norm / share)
    torch.nn.utils.clip_grad_norm_(theirs.values(), norm / share)
    for name in SHAPES:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad)
        assert torch.equal(ours[name].grad, _given(name)) == (share < 1)


def _given(name: str) -> torch.Tensor | None:
    parameters = _parameters()
    _give_gradients(parameters, torch.Generator().manual_seed(3))
    return parameters[name].grad


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clipping_makes_all_gradients_nan_if_one_is_not_finite(bad: float) -> None:
    parameters = _parameters()
    _give_gradients(parameters, torch.Generator().manual_seed(3))
    parameters["vector"].grad[0] = bad
    Adam(parameters, learning_rate=1e-3).clip(1.0)
    assert parameters["vector"].grad[0].isnan()
    assert all(not (parameter.grad.abs() > 0).any() for parameter in parameters.values())


LEARN = """
    import json, sys
    import numpy as np
    from seer_edge.agents.rainbow import RainbowAgent
    from seer_edge.networks.spec import RainbowHeadSpec, encoder_spec
    from seer_edge.config.presets import RainbowSettings
    from seer_runtime.replay.replay import Batch
    from tests.seer_edge.observations import SliceBuffer

    def update(array):
        ones, observations = np.ones(3, np.float32), SliceBuffer(2).of(array)
        agent.act(array[0])
        agent.update(Batch(observations, np.arange(3, dtype=np.int32), ones, ones, observations, ones, np.arange(3)))

    encoder = encoder_spec("data-efficient", input_shape=(4, 30, 30))
    agent = RainbowAgent(encoder, RainbowHeadSpec(encoder.latent_size, 8, 3, 11), RainbowSettings(), seed=0)
    update(np.zeros((3, 4, 30, 30), np.uint8))
    agent.freeze_encoder(reads_latents=True)
    update(np.zeros((3, *encoder.latent_shape), np.float32))
    print(json.dumps([agent.updates, sorted(sys.modules)]))
"""


@pytest.mark.integration
def test_learning_does_not_import_the_compiler_stack() -> None:
    command, root = [sys.executable, "-c", textwrap.dedent(LEARN)], Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=root)
    updates, loaded = json.loads(done.stdout)
    assert updates == 2
    assert "torch" in loaded
    heavy = ("torch._dynamo", "torch._inductor", "sympy")
    assert [name for name in loaded if name in heavy or name.startswith(tuple(f"{name}." for name in heavy))] == []
