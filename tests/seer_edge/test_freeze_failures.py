"""Failures of a freeze. Before the conversion begins nothing may change; afterwards the run must stop."""

import errno
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import seer_edge.training.evaluate
import seer_edge.training.freeze
import seer_edge.training.session
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.networks.graph import encoder_graph
from seer_edge.training.freeze import FreezeRefusedError
from seer_runtime import durable
from seer_runtime.durable import files
from seer_runtime.onnx.encoder import MAX_BATCH
from seer_runtime.replay.codecs import FloatCodec
from seer_runtime.system.ledger import WORKSPACE_CAP_BYTES, Line
from tests.seer_edge.freeze_rig import (
    Arrays,
    Rig,
    assert_rows,
    assert_same,
    check_failed_conversion,
    snapshot,
)

pytestmark = pytest.mark.integration


def _perturbed(change: Callable[[str, NDArray[np.float32]], None]) -> Callable[..., bytes]:
    """Call `change` with the name and the array of the last layer's kernel and bias, to modify them in place."""

    def build(spec: Any, weights: Arrays) -> bytes:
        changed = {name: array.copy() for name, array in weights.items()}
        for name in list(changed)[-2:]:
            change(name, changed[name])
        return encoder_graph(spec, changed)

    return build


def _raising(error: Exception) -> Callable[..., Any]:
    def fail(*unused: object) -> Any:
        raise error

    return fail


def _path_under_a_file(run: Rig, patch: pytest.MonkeyPatch) -> None:
    run.path.parent.joinpath("file").write_text("")
    run.path = run.path.parent / "file" / "encoder.onnx"


def _folder_in_the_way(run: Rig, patch: pytest.MonkeyPatch) -> None:
    run.path.mkdir()


def _graph_is_garbage(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(seer_edge.training.freeze, "encoder_graph", lambda *unused: b"not a graph")


def _no_workspace_left(run: Rig, patch: pytest.MonkeyPatch) -> None:
    ledger = run.session.ledger
    ledger.allocate(Line.WORKSPACE, WORKSPACE_CAP_BYTES - ledger.held_bytes(Line.WORKSPACE) - 64, np.uint8)


def _latents_differ(run: Rig, patch: pytest.MonkeyPatch) -> None:
    def change(name: str, array: NDArray[np.float32]) -> None:
        array *= np.float32(1.01)

    patch.setattr(seer_edge.training.freeze, "encoder_graph", _perturbed(change))


def _outputs_differ(run: Rig, patch: pytest.MonkeyPatch) -> None:
    """Latents differ within the tolerance, but the head is steep enough to amplify the difference."""

    def change(name: str, array: NDArray[np.float32]) -> None:
        if name.endswith("bias"):
            array[::2] += np.float32(9e-5)  # the same for all would not get past a layer norm

    patch.setattr(seer_edge.training.freeze, "encoder_graph", _perturbed(change))
    agent = run.session.agent
    with torch.no_grad():
        if isinstance(agent, RainbowAgent):
            agent.head.hidden.weight.mul_(1_000)
        else:
            agent.encoder.fcs[-1].weight.mul_(0.03)  # which the layer norm takes back


def _weights_are_nan(run: Rig, patch: pytest.MonkeyPatch) -> None:
    with torch.no_grad():
        run.session.agent.encoder.convs[0].weight[0, 0, 0, 0] = float("nan")


def _calibration_fails(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FloatCodec, "calibrate", _raising(MemoryError("no memory for scales")))


def _checkpoints_is_a_file(run: Rig, patch: pytest.MonkeyPatch) -> None:
    run.checkpoints.write_text("")


def _disk_is_full_at_the_checkpoint(run: Rig, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(durable, "write_tensors", _raising(OSError(errno.ENOSPC, "No space left on device")))


FAULTS = {
    _path_under_a_file: "",
    _folder_in_the_way: "",
    _graph_is_garbage: "",
    _no_workspace_left: "workspace: .* would exceed the cap",
    _latents_differ: "latents of ONNX Runtime and torch differ by",
    _outputs_differ: "outputs of ONNX Runtime and torch differ by",
    _weights_are_nan: "constant convs.0.weight contains NaN or infinity",
    _calibration_fails: "no memory for scales",
    _checkpoints_is_a_file: "",
    _disk_is_full_at_the_checkpoint: "No space left on device",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__.strip("_"))
def test_a_refused_freeze_changes_nothing(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, fault: Callable[[Rig, pytest.MonkeyPatch], None]
) -> None:
    run = rig(replay="prioritized")
    run.until("", 100)
    fault(run, monkeypatch)
    before, observed, perception = snapshot(run), run.session.observed, run.session.perception
    with pytest.raises(FreezeRefusedError, match=f"(?s)no freeze at step {run.session.timestep}: .*{FAULTS[fault]}"):
        run.freeze()
    assert not run.path.is_file()
    assert not run.checkpoints.is_dir() or not any(run.checkpoints.iterdir())
    assert run.session.observed is observed
    assert run.session.perception is perception
    assert_same(snapshot(run), before)
    agent = run.session.agent
    online = dict(agent.encoder.named_parameters())
    assert all(parameter.requires_grad for parameter in online.values())
    assert all(parameter is not online[name] for name, parameter in agent.target_encoder.named_parameters())


def test_latents_out_of_the_codecs_range_refuse_the_freeze(rig: Callable[..., Rig]) -> None:
    run = rig(latent_codec="float16", learning_starts=1_000)
    with torch.no_grad():
        for parameter in run.session.agent.encoder.convs[-1].parameters():
            parameter.mul_(1e7)
    run.steps(100)
    before = snapshot(run)
    with pytest.raises(FreezeRefusedError, match="codec float16 stores values up to 65504"):
        run.freeze()
    assert not run.path.exists()
    assert_same(snapshot(run), before)


def test_a_run_continues_after_a_refused_freeze_as_without_it(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, twin = rig(), rig()
    for each in (run, twin):
        each.steps(100)
    with monkeypatch.context() as patch:
        _latents_differ(run, patch)
        with pytest.raises(FreezeRefusedError):
            run.freeze()
    for each in (run, twin):
        each.steps(20)
    assert_same(snapshot(run), snapshot(twin))
    for each in (run, twin):
        each.freeze()
        each.steps(20)
    assert_same(snapshot(run), snapshot(twin))


TOUCHES = ("_create", "_write", "_fsync", "_fsync_folder", "_rename", "_make_folder")


@pytest.mark.parametrize(
    ("agent", "call", "every"),
    [
        *(("rainbow", call, 1) for call in TOUCHES if call != "_write"),
        *(pytest.param("curl-sac", call, 1, marks=pytest.mark.slow) for call in TOUCHES if call != "_write"),
        # Every tensor is a write of its own: some 80 of Rainbow, more than 200 of CURL + SAC.
        ("rainbow", "_write", 32),
        pytest.param("rainbow", "_write", 1, marks=pytest.mark.slow),
        ("curl-sac", "_write", 96),
        pytest.param("curl-sac", "_write", 16, marks=pytest.mark.slow),
    ],
)
def test_a_disk_error_at_any_call_refuses_the_freeze(
    build_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, agent: str, call: str, every: int
) -> None:
    """The first call fails, then the one `every` calls later, and so on. Every attempt but the last is refused."""
    run = build_rig(agent)
    run.steps(100)
    before, real, refusals = snapshot(run), getattr(files, call), 0

    def fails_at(number: int) -> Callable[..., Any]:
        calls = itertools.count(1)

        def touch(*arguments: Any) -> Any:
            if next(calls) == number:
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments)

        return touch

    for number in itertools.count(1, every):
        with monkeypatch.context() as patch:
            patch.setattr(files, call, fails_at(number))
            try:
                run.freeze()
                break
            except FreezeRefusedError:
                refusals += 1
        assert not run.path.exists()
        assert_same(snapshot(run), before)
    assert refusals == (number - 1) // every >= 2
    assert run.session.phase == "latent"
    assert_rows(run, run.encoder())


@pytest.mark.parametrize(
    "room_bytes", [0, 20_000, *(pytest.param(number, marks=pytest.mark.slow) for number in (5_000, 30_000, 60_000))]
)
def test_too_little_workspace_never_leaves_a_half_frozen_run(rig: Callable[..., Rig], room_bytes: int) -> None:
    run = rig()
    run.steps(100)
    ledger = run.session.ledger
    # The encoder's latents fit; the views, the window or the chunks do not.
    taken = MAX_BATCH * int(np.prod(run.plan.encoder.latent_shape)) * 4 + room_bytes
    ledger.allocate(Line.WORKSPACE, WORKSPACE_CAP_BYTES - ledger.held_bytes(Line.WORKSPACE) - taken, np.uint8)
    held = {line: ledger.held_bytes(line) for line in Line}
    with pytest.raises(FreezeRefusedError, match=r"workspace: .* would exceed the cap"):
        run.freeze()
    assert {line: ledger.held_bytes(line) for line in Line} == held
    assert not run.session.agent.frozen
    run.steps(10)


# --- failures after it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 4))])
def test_a_failed_conversion_stops_the_run_and_keeps_a_checkpoint(
    rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    run = rig()
    run.steps(100)
    before = snapshot(run)

    check_failed_conversion(run, monkeypatch, chunk, before)
