"""What a command asks of its host."""

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


@pytest.mark.parametrize(("how", "left"), [("prepared", 0), ("as it is", 1000)])
def test_moments_of_what_died_fall_to_zero(how: str, left: int) -> None:
    """Without our setting they would stay at the least subnormal number, and be slow, for ever."""
    command = [sys.executable, "-c", textwrap.dedent(LEARN), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == left


def test_cuda_devices_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        check_device(device)
    with pytest.raises(BadInputError, match=r"^--device cuda:2: there are 2; give a smaller index$"):
        check_device("cuda:2")


def test_cuda_without_onnx_runtimes_is_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    prepare_cuda()
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "runs on the CPU" in record.getMessage()
    assert not torch.backends.cudnn.allow_tf32


def test_subnormals_stay_flushed_when_encoders_are_opened() -> None:
    """ONNX Runtime sets the thread's mode anew with each session; a thread that begins then takes it over."""
    spec = encoder_spec("data-efficient", input_shape=(4, 42, 42))
    encoder = Encoder(spec, torch.Generator().manual_seed(0))
    graph = encoder_graph(spec, {name: tensor.numpy() for name, tensor in encoder.state_dict().items()})
    torch.set_flush_denormal(True)
    for _ in range(2):
        open_session(graph, threads=1)
        assert not (torch.full((64,), 2e-38) * 0.1).any()
    torch.set_flush_denormal(False)
    assert (torch.full((64,), 2e-38) * 0.1).all()
