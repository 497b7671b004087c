"""`--from RUN --take encoder`: runs that import the encoder of another run, and input that is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from seer_runtime import durable
from tests.end_to_end.short_presets import CONTROL, EPISODE_STEPS, PIXEL_GAME, SAC, TASK, Run, trained_run


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _newest(folder: Path) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Return agent, replay and state of the newest checkpoint of a run."""
    checkpoint = durable.newest_checkpoint(folder / "checkpoints").path
    tensors = [durable.read_tensors(checkpoint / f"{name}.safetensors") for name in ("agent", "replay")]
    return tensors[0], tensors[1], _read(checkpoint / "state.json")


def _encoder_of(agent: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in agent.items() if name.startswith(("encoder.", "actor.norm.", "critic.norm."))
    }


def _encode(folder: Path, observations: Any) -> Any:
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"observations": observations})[0]


@pytest.mark.parametrize(
    ("flags", "stack", "frame", "latent"),
    [
        (PIXEL_GAME, (4, 42, 42), 42 * 42, 4 * 64),
        pytest.param(CONTROL, (9, 21, 21), 3 * 25 * 25, 4 * 4 * 2 * SAC.features, marks=pytest.mark.slow),
    ],
    ids=["game", "control"],
)
def test_a_run_imports_the_encoder_of_another_run(
    run: Run, tmp_path: Path, flags: tuple[str, ...], stack: tuple[int, ...], frame: int, latent: int
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    assert run("train", *flags, "--seed", "1", "--total-timesteps", "30", "--run-dir", source)[0] == 0

    transfer = (*flags, "--from", source, "--take", "encoder")
    status, plan, _ = run("plan", *transfer)
    assert status == 0
    assert f"step 0: the encoder of {source}" in plan
    assert "the replay holds latents only" in plan

    status, out, error = run("train", *transfer, "--run-dir", target)
    assert status == 0
    memory = "memory of this machine"  # it changes between the two commands
    assert [line for line in plan.splitlines() if memory not in line] == [
        line for line in out.splitlines()[:-1] if memory not in line
    ]
    assert f"encoder of {source}, step 30, frozen from the start" in error

    summary = _read(target / "summary.json")
    frame_capacity = 300_000 // frame
    latent_capacity = frame_capacity * frame // latent
    assert (summary["status"], summary["timesteps"]) == ("finished", 75)
    assert (summary["replay"]["latent_capacity"], summary["replay"]["latent_row_bytes"]) == (latent_capacity, latent)
    assert {name: summary["freeze"][name] for name in ("timestep", "rows", "onnx_max_abs_error")} == {
        "timestep": 0,
        "rows": 0,
        "onnx_max_abs_error": None,
    }
    assert summary["steps_per_second"]["pixel"] is None
    assert summary["flops"]["at_freeze"] == 0 < summary["flops"]["total"]
    assert summary["budget"]["observation_bytes_peak"] == frame_capacity * frame <= 300_000

    (agent, replay, state), (theirs, _, _) = _newest(target), _newest(source)
    assert (state["frozen"], state["replay"]["codec"], state["replay"]["layout"]["capacity"]) == (
        True,
        "float32",
        latent_capacity,
    )
    assert replay["rows"].shape == (summary["replay"]["rows"], latent)
    norms = {name for name in _encoder_of(theirs) if "norm" in name}
    assert _encoder_of(agent).keys() == norms  # the encoder itself is in encoder.onnx alone
    assert all(np.array_equal(agent[name], theirs[name]) for name in norms)
    observations = np.random.default_rng(0).integers(0, 256, (3, *stack), np.uint8)
    np.testing.assert_array_equal(_encode(target, observations), _encode(source, observations))
    assert {step.name for step in (target / "checkpoints").iterdir()} == {"step_0000000000", "step_0000000075"}

    assert run("eval", target)[0] == 0


@pytest.mark.slow
def test_another_task_imports_the_encoder_of_a_partly_frozen_run(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    size = ("--resolution", "25", "--eval-episodes", "1")
    assert (
        run("train", "--env", TASK, *size, "--total-timesteps", "20", "--freeze-layers", "3", "--run-dir", source)[0]
        == 0
    )
    to = ("--env", "cartpole-balance", *size, "--from", source, "--take", "encoder", "--freeze-layers", "4")
    status, out, error = run("train", *to, "--total-timesteps", "30", "--run-dir", target)
    assert status == 0
    assert "the replay keeps frames" in out
    assert "frozen from the start; capacity 160 frames" in error
    assert not (target / "encoder.onnx").exists()
    (agent, replay, state), (theirs, _, _) = _newest(target), _newest(source)
    assert (state["frozen"], replay["rows"].shape) == (True, (30 + 30 // EPISODE_STEPS, 3 * 25 * 25))
    convolutions = {name for name in _encoder_of(agent) if name.startswith("encoder.convs.")}
    assert {name for name in _encoder_of(agent) if np.array_equal(agent[name], theirs[name])} == convolutions


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the pixel game."""
    return trained_run(tmp_path_factory.mktemp("source") / "run", *PIXEL_GAME, "--total-timesteps", "25")


def _refusal(run: Run, folder: Path, *words: str | Path) -> str:
    """Return the line with which `train` refuses its input. Assert that nothing is written and `plan` refuses too."""
    status, out, error = run("train", *words, "--total-timesteps", "30", "--run-dir", folder)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert not folder.exists()
    assert run("plan", *words, "--total-timesteps", "30")[0] == 2
    return error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*PIXEL_GAME, "--encoder", "canonical"), "encoder is data-efficient there and canonical here"),
        ((*PIXEL_GAME, "--resolution", "84"), "frame is 42x42 there and 84x84 here"),
        (CONTROL, "encoder is data-efficient there and sac-ae here"),
        (("--env", TASK, "--resolution", "50", "--encoder", "data-efficient"), "networks is 1 there and 2 here"),
    ],
)
def test_an_encoder_that_does_not_fit_is_refused(
    run: Run, source: Path, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    error = _refusal(run, tmp_path / "run", *flags, "--from", source, "--take", "encoder")
    assert f"--from {source}: its encoder does not fit: {message}; import from a run with the same " in error


def test_a_missing_run_or_one_without_a_checkpoint_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(source, bare, ignore=shutil.ignore_patterns("step_*"))
    for folder in (tmp_path / "nowhere", bare, source / "config.json"):
        error = _refusal(run, tmp_path / "run", *PIXEL_GAME, "--from", folder, "--take", "encoder")
        assert error.startswith(f"seer-edge train: --from {folder}: ")
        assert "give the --run-dir of a run" in error


def test_a_source_with_a_damaged_checkpoint_is_refused(run: Run, source: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(source, damaged)
    for agent in (damaged / "checkpoints").glob("step_*/agent.safetensors"):
        data = bytearray(agent.read_bytes())
        data[len(data) // 2] ^= 16
        agent.write_bytes(data)
    error = _refusal(run, tmp_path / "run", *PIXEL_GAME, "--from", damaged, "--take", "encoder")
    assert f"--from {damaged}: " in error
    assert "no undamaged checkpoint" in error
    assert "agent.safetensors" in error


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--from", "{source}"), ["--from {source}: only the encoder of a run can be imported; also give"]),
        (("--take", "encoder"), ["--take encoder: also give --from RUN"]),
        (("--from", "{source}", "--take", "agent"), ["--take agent: {source} is a run", "export --with learner"]),
        (("--from", "{source}", "--take=agent"), ["--take agent: {source} is a run", "export --with learner"]),
        (("--from", "{source}", "--take", "head"), ["--take", "'head'", "encoder"]),
        (
            ("--from", "{source}", "--take", "encoder", "--freeze-at", "9"),
            ["--freeze-at 9: ", "--from", "leave it out"],
        ),
        (("--from", "{source}", "--take", "encoder", "--freeze-at", "never"), ["--freeze-at never: ", "leave it out"]),
        (
            ("--from", "{source}", "--take", "encoder", "--freeze-layers", "9"),
            ["--freeze-layers 9", "choose one of 1, 2"],
        ),
        (
            ("--from", "{source}", "--take", "encoder", "--mem-budget", "1000"),
            ["--mem-budget 1000", "latents", "at least"],
        ),
    ],
)
def test_flags_that_exclude_each_other_are_refused(
    run: Run, source: Path, tmp_path: Path, flags: tuple[str, ...], parts: list[str]
) -> None:
    words = [word.format(source=source) for word in flags]
    error = _refusal(run, tmp_path / "run", *PIXEL_GAME, *words)
    for part in parts:
        assert part.format(source=source) in error
