"""Untrusted checkpoints: every hash is valid, but the content is not."""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from seer_edge.config.presets import SacSettings
from seer_edge.runs import checkpoint
from seer_runtime import durable
from seer_runtime.onnx.check import check_graph
from seer_runtime.onnx.encoder import INPUT, OUTPUT
from seer_runtime.system.process import rss_peak_bytes
from tests.faults import runs
from tests.faults.test_resume import stop_at
from tests.faults.test_run_disk import short
from tests.faults.test_run_folder import importing, rejection
from tests.runtime.onnx_graphs import model_of, small_model

SECONDS = 30
GROWTH_BYTES = 100_000_000
Edit = Callable[[Path], None]


@pytest.fixture(scope="session")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen run that was stopped at step 55, with one checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    stop = functools.partial(stop_at, (55,))
    child = runs.start(folder / "log", runs.train_command, short(), folder / "run", prepare=stop)
    assert child.join() == 143, (folder / "log").read_text()
    shutil.rmtree(folder / "run/checkpoints/step_0000000050")
    return folder / "run"


@pytest.fixture(scope="session")
def usual_bytes(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Peak RSS in bytes of each command with a sound checkpoint."""
    peaks = {}
    for command in ("eval", "resume"):
        run = tmp_path_factory.mktemp(command) / "run"
        shutil.copytree(stopped, run)
        status, text, peaks[command] = outcome(command, run)
        assert status == 0, text
    return peaks


def measured(*words: str | Path) -> int:
    status = runs.command(*words)
    print(rss_peak_bytes())
    return status


def outcome(command: str, run: Path) -> tuple[int, str, int]:
    """Run the command; return its exit status, output and peak RSS in bytes."""
    log = run.with_name(f"{command}.log")
    status = runs.start(log, measured, command, run).join(SECONDS)
    *lines, peak = log.read_text().splitlines()
    return status, "\n".join(lines), int(peak)


# --- edits -------------------------------------------------------------------------------------------------


def seal(saved: Path) -> None:
    """Rewrite the manifest to match the present files."""
    manifest = json.loads((saved / durable.MANIFEST).read_text())
    manifest["files"] = {
        file.name: {"size_bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in saved.iterdir()
        if file.name != durable.MANIFEST
    }
    (saved / durable.MANIFEST).write_text(json.dumps(manifest))


def put(file: str, entry: str, value: Any) -> Edit:
    """Set the dotted `entry` of a JSON file to `value`, or replace the whole content where `entry` is empty."""

    def edit(saved: Path) -> None:
        content = json.loads((saved / file).read_text())
        *parents, last = entry.split(".")
        inner = content
        for parent in parents:
            inner = inner[parent]
        if last:
            inner[last] = value
        else:
            content = value
        (saved / file).write_text(json.dumps(content))

    return edit


def without(file: str, entry: str) -> Edit:
    def edit(saved: Path) -> None:
        content = json.loads((saved / file).read_text())
        del content[entry]
        (saved / file).write_text(json.dumps(content))

    return edit


def tensors(file: str, change: Callable[[dict[str, Any]], Any]) -> Edit:
    def edit(saved: Path) -> None:
        arrays = durable.read_tensors(saved / file)
        change(arrays)
        durable.write_tensors(saved / file, arrays)

    return edit


def fill(file: str, name: str, value: Any) -> Edit:
    return tensors(file, lambda arrays: arrays[name].fill(value))


def cast(file: str, name: str, dtype: str) -> Edit:
    return tensors(file, lambda arrays: arrays.update({name: arrays[name].astype(dtype)}))


def data(file: str, content: bytes) -> Edit:
    def edit(saved: Path) -> None:
        (saved / file).write_bytes(content)

    return edit


def no(file: str) -> Edit:
    return lambda saved: (saved / file).unlink()


def encoder_of_smaller_frames() -> bytes:
    """Return an encoder from stacks of 42x42 to latents of the right size."""
    latent = (1, 576)
    constants = {
        "scale": np.array(255, np.float32),
        "shape": np.array([0, *latent], np.int64),
        "w": np.ones((16, 4, 7, 7), np.float32),
        "b": np.zeros(16, np.float32),
    }
    nodes = [
        helper.make_node("Cast", [INPUT], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast", "scale"], ["div"]),
        helper.make_node("Conv", ["div", "w", "b"], ["conv"], kernel_shape=[7, 7], strides=[7, 7], pads=[0, 0, 0, 0]),
        helper.make_node("Flatten", ["conv"], ["flat"], axis=1),
        helper.make_node("Reshape", ["flat", "shape"], [OUTPUT]),
    ]
    graph = model_of(nodes, constants, (4, 42, 42), latent).SerializeToString()
    assert check_graph(graph, max_batch=16).latent_shape == latent
    return bytes(graph)


FROZEN = {
    "freeze": {
        "timestep": "x",
        "rows": 1,
        "seconds": 1,
        "rss_before_bytes": 1,
        "rss_peak_bytes": 1,
        "rss_after_bytes": 1,
        "onnx_max_abs_error": 1,
    }
}
HUGE = 10**18
FILES = (checkpoint.CONFIG, checkpoint.AGENT, checkpoint.REPLAY, checkpoint.SESSION, checkpoint.STATE, checkpoint.RUN)
BOTH: dict[str, Edit] = {
    **{f"{file} is {value!r}": put(file, "", value) for file in ("config.json", "state.json") for value in ([], 5, {})},
    **{f"{name} is gone": no(name) for name in FILES},
    "agent.safetensors is empty": data("agent.safetensors", b""),
    "agent is null": put("state.json", "agent", None),
    "agent is text": put("state.json", "agent", "x"),
    "updates are text": put("state.json", "agent.updates", "1"),
    "hidden 10**9": put("config.json", "settings.hidden", 10**9),
    "hidden 10**18": put("config.json", "settings.hidden", HUGE),
    "hidden 17": put("config.json", "settings.hidden", 17),
    "stack 10**9": put("config.json", "settings.stack", 10**9),
    "atoms 10**9": put("config.json", "settings.atoms", 10**9),
    "threads -1": put("config.json", "threads", -1),
    "threads 10**9": put("config.json", "threads", 10**9),
    "batch_size 0": put("config.json", "settings.batch_size", 0),
    "resolution 10**9": put("config.json", "resolution", 10**9),
    "action_repeat text": put("config.json", "action_repeat", "4"),
    "seed -1": put("config.json", "seed", -1),
    "a game of other actions": put("config.json", "env", "ALE/Pong-v5"),
    "no such environment": put("config.json", "env", "ALE/Nothing-v5"),
    "another algo": put("config.json", "algo", "sac"),
    "no such algo": put("config.json", "algo", ["rainbow"]),
    "another device": put("config.json", "device", "meta"),
    "another encoder": put("config.json", "encoder", "impala"),
    "augmentations 10**9": put("config.json", "augmentations", 10**9),
    "settings of the other kind": put("config.json", "settings", asdict(SacSettings())),
    "no seed": without("config.json", "seed"),
    "an entry too many": put("config.json", "more", 1),
    "NaN weights": tensors(
        "agent.safetensors", lambda arrays: [a.fill(np.nan) for a in arrays.values() if a.dtype.kind == "f"]
    ),
    "weights of float64": tensors(
        "agent.safetensors",
        lambda arrays: arrays.update({n: a.astype("f8") for n, a in arrays.items() if a.dtype.kind == "f"}),
    ),
    "a weight less": tensors("agent.safetensors", lambda arrays: arrays.popitem()),
    "a tensor more": tensors("agent.safetensors", lambda arrays: arrays.update(more=np.zeros(3))),
    "generator of zeros": fill("agent.safetensors", "generator", 0),
    "not frozen, with an encoder": put("state.json", "frozen", False),
    "an encoder of garbage": data("encoder.onnx", b"\x08\x09" + bytes(500)),
    "an empty encoder": data("encoder.onnx", b""),
    "no encoder": no("encoder.onnx"),
    "an encoder of smaller frames": data("encoder.onnx", encoder_of_smaller_frames()),
    "an encoder of other sizes": data("encoder.onnx", small_model().SerializeToString()),
}
RESUME: dict[str, Edit] = {
    **{
        f"layout.{entry} {value}": put("state.json", f"replay.layout.{entry}", value)
        for entry in ("appended", "rows", "first_slot")
        for value in (HUGE, 2**70, -1, "x", 1.5, None)
    },
    **{f"layout.capacity {value}": put("state.json", "replay.layout.capacity", value) for value in (1, -1, "x", None)},
    **{f"run.json is {value!r}": put("run.json", "", value) for value in ([], 5, {}, [["a", 1]])},
    **{
        f"run.json {entry} {value!r}": put("run.json", entry, value)
        for entry, value in (
            ("outcome", []),
            ("outcome.freeze", 5),
            ("outcome.freeze", FROZEN["freeze"]),
            ("outcome.evaluation", []),
            ("outcome.evaluation", ["x"]),
            ("outcome.resumed_at", 5),
            ("outcome.peaks", []),
            ("outcome.peaks", {"rss": "x"}),
            ("clock", 5),
            ("clock.steps", {"pixel": "x"}),
            ("clock.seconds", {"pixel": "x"}),
            ("clock.seconds", {}),
            ("interval.episodes", [[1]]),
            ("interval.losses", ["x"]),
            ("interval.steps", None),
            ("logged_at", "x"),
            ("logged_at", [1]),
            ("evaluated_at", {}),
            ("seconds", "x"),
        )
    },
    "replay is text": put("state.json", "replay", "x"),
    "rng null": put("state.json", "replay.rng", None),
    "rng of another kind": put("state.json", "replay.rng", {"bit_generator": "MT19937", "state": {}}),
    "rng too large": put("state.json", "replay.rng.state.state", 2**200),
    "exploration is text": put("state.json", "exploration", "x"),
    "views are text": put("state.json", "perception.views", "x"),
    "no perception": put("state.json", "perception", None),
    "another codec": put("state.json", "replay.codec", "float16"),
    "largest_priority is text": put("state.json", "replay.largest_priority", "x"),
    "a budget of 10**18": put("config.json", "mem_budget_bytes", HUGE),
    "batch_size 10**12": put("config.json", "settings.batch_size", 10**12),
    "actions out of range": fill("replay.safetensors", "action", 18),
    "actions negative": fill("replay.safetensors", "action", -1),
    "flags out of range": fill("replay.safetensors", "flags", 255),
    "rewards of NaN": fill("replay.safetensors", "reward", np.nan),
    "priorities negative": fill("replay.safetensors", "priorities", -1),
    "rewards of float64": cast("replay.safetensors", "reward", "f8"),
    "rows of float32": cast("replay.safetensors", "rows", "f4"),
    "a column less": tensors("replay.safetensors", lambda arrays: arrays.pop("age")),
    "a column more": tensors("replay.safetensors", lambda arrays: arrays.update(more=np.zeros(3))),
    "a row less": tensors("replay.safetensors", lambda arrays: arrays.update(rows=arrays["rows"][:-1].copy())),
    "latents of another shape": tensors(
        "session.safetensors", lambda arrays: arrays.update({"perception.latents": np.zeros((1, 2), "f4")})
    ),
}
SAMPLE = (
    "state.json is []",
    "hidden 10**9",
    "NaN weights",
    "an encoder of smaller frames",
    "an encoder of garbage",
    "layout.rows 1000000000000000000",
    "rng of another kind",
    "flags out of range",
    "run.json is gone",
)


def chosen(edits: dict[str, Edit]) -> list[Any]:
    return [
        pytest.param(edit, id=name, marks=() if name in SAMPLE else pytest.mark.faults) for name, edit in edits.items()
    ]


def check_rejection(command: str, run: Path, usual_bytes: int) -> None:
    status, text, peak = outcome(command, run)
    assert "Traceback" not in text, text
    assert status == 2, text
    *before, last = text.splitlines()
    assert last.startswith(f"seer-edge {command}: "), text
    assert not [line for line in before if line.startswith("seer-edge")]
    assert peak < usual_bytes + GROWTH_BYTES


@pytest.fixture
def saved(stopped: Path, tmp_path: Path) -> Path:
    """The checkpoint in a copy of the run."""
    shutil.copytree(stopped, tmp_path / "run")
    return runs.newest(tmp_path / "run")


UNTRUSTED = pytest.mark.fault(
    "an untrusted checkpoint: valid hashes, but wrong entries, sizes, types, tensors or graph",
    promise="`resume` and `eval` reject it in one line, within 100 MB",
)


@UNTRUSTED
@pytest.mark.parametrize("edit", chosen(BOTH))
def test_eval_and_resume_reject_it(edit: Edit, saved: Path, usual_bytes: dict[str, int]) -> None:
    edit(saved)
    seal(saved)
    for command in ("eval", "resume"):
        check_rejection(command, saved.parents[1], usual_bytes[command])


@UNTRUSTED
@pytest.mark.parametrize("edit", chosen(RESUME))
def test_resume_rejects_it(edit: Edit, saved: Path, usual_bytes: dict[str, int]) -> None:
    edit(saved)
    seal(saved)
    check_rejection("resume", saved.parents[1], usual_bytes["resume"])


TAKE: dict[str, Edit] = {
    **{
        name: BOTH[name]
        for name in ("agent is null", "NaN weights", "weights of float64", "agent.safetensors is empty")
    },
    "one of the encoder's tensors less": tensors(checkpoint.AGENT, lambda arrays: arrays.pop(first(arrays))),
    "one of the encoder's tensors of another shape": tensors(
        checkpoint.AGENT, lambda arrays: arrays.update({first(arrays): np.zeros(3, "f4")})
    ),
    "no identity": put("state.json", "encoder", None),
    "another identity": put("state.json", "encoder.crop", [HUGE, HUGE]),
}


def first(arrays: dict[str, Any]) -> str:
    """Return the name of the first tensor of the encoder."""
    return min(name for name in arrays if name.startswith("encoder."))


@UNTRUSTED
@pytest.mark.parametrize("edit", [pytest.param(edit, id=name) for name, edit in TAKE.items()])
def test_train_from_rejects_its_encoder(edit: Edit, saved: Path) -> None:
    edit(saved)
    seal(saved)
    rejection(saved.parents[1], *importing(saved.parents[1]))


@UNTRUSTED
def test_a_replay_without_any_window_stops_the_run(saved: Path) -> None:
    fill("replay.safetensors", "flags", 4)(saved)
    seal(saved)
    status, text, _ = outcome("resume", saved.parents[1])
    assert status == 75
    assert "nothing to learn from (no window of 3 steps among 48 rows)" in text.splitlines()[-1]


@UNTRUSTED
def test_an_invalid_emulator_state_starts_a_new_episode(saved: Path) -> None:
    fill("session.safetensors", "environment.emulator", 255)(saved)
    seal(saved)
    status, text, _ = outcome("resume", saved.parents[1])
    assert status == 0, text
    assert "a new episode begins" in text


def test_an_unedited_checkpoint_with_a_new_manifest_is_sound(saved: Path) -> None:
    seal(saved)
    assert durable.newest_checkpoint(saved.parent).path == saved
