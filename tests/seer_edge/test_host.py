"""Preparation of threads, subnormal numbers and devices for commands that learn."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from seer_edge.errors import BadInputError
from seer_edge.machine.devices import check_device
from seer_edge.machine.host import prepare_cuda
from seer_edge.networks.encoder import Encoder
from seer_edge.networks.graph import encoder_graph
from seer_edge.networks.spec import encoder_spec
from seer_runtime.onnx.encoder import open_session

LEARN = """
    import sys
    import torch
    from seer_edge.agents.adam import Adam
    from seer_edge.config.config import build_config
    from seer_edge.envs import EnvOptions, make_env
    from seer_edge.machine.host import prepare_compute

    if sys.argv[1] == "prepared":
        prepare_compute(build_config(make_env("Alien", EnvOptions(), seed=0, training=True).spec, seed=0, threads=1))
    parameter = torch.nn.Parameter(torch.ones(1000))
    adam = Adam({"dead": parameter}, learning_rate=1e-3)
    for step in range(1_200):
        parameter.grad = torch.full((1000,), float(step == 0))
        adam.step()
    torch.set_flush_denormal(False)
    print(int(adam.state()["first.dead"].count_nonzero()))
"""


@pytest.mark.integration
@pytest.mark.parametrize(("how", "left"), [("prepared", 0), ("unprepared", 1000)])
def test_moments_of_dead_units_decay_to_zero(how: str, left: int) -> None:
    """Without `prepare_compute` they stay at the smallest subnormal number, which slows Adam down for good."""
    command = [sys.executable, "-c", textwrap.dedent(LEARN), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == left


def test_cuda_index_is_checked_against_the_device_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_device(device)
    with pytest.raises(BadInputError, match=r"^--device cuda:2: torch finds 2 CUDA devices; use cuda:0 to cuda:1$"):
        check_device("cuda:2")


def test_prepare_cuda_warns_of_an_onnx_runtime_without_cuda_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    prepare_cuda()
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "runs on the CPU" in record.getMessage()
    assert not torch.backends.cudnn.allow_tf32


def test_opening_an_onnx_session_keeps_subnormals_flushed() -> None:
    """Each new ONNX Runtime session sets the calling thread's mode, which threads started later inherit."""
    spec = encoder_spec("data-efficient", input_shape=(4, 42, 42))
    encoder = Encoder(spec, torch.Generator().manual_seed(0))
    graph = encoder_graph(spec, {name: tensor.numpy() for name, tensor in encoder.state_dict().items()})
    torch.set_flush_denormal(True)
    for _ in range(2):
        open_session(graph, threads=1)
        assert not (torch.full((64,), 2e-38) * 0.1).any()
    torch.set_flush_denormal(False)
    assert (torch.full((64,), 2e-38) * 0.1).all()
