"""Weights & Biases and MLflow: they receive all rows, and a run neither changes nor waits for them."""

import csv
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seer_edge.api import planning
from seer_edge.training import trackers
from seer_edge.training.metrics import Console
from tests.end_to_end.short_presets import GAME, Run, runner, use_short_presets
from tests.faults import runs

pytestmark = pytest.mark.integration

TRAIN = ("train", "--env", GAME, "--log-every", "20", "--checkpoint-every", "25")
STEP = "time/total_timesteps"
READ_RECORDS = """
import json, sys
from wandb.proto import wandb_internal_pb2
for line in sys.stdin:
    record = wandb_internal_pb2.Record.FromString(bytes.fromhex(line))
    row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
    if row:
        print(json.dumps(row | {"_step": record.history.step.num}))
    for item in record.config.update:
        print(json.dumps({"config": [item.key or item.nested_key[0], json.loads(item.value_json)]}))
"""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    use_short_presets(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "home").mkdir()
    return runner(monkeypatch, capsys)


def table(folder: Path) -> list[dict[str, float]]:
    """Return the rows of `progress.csv` without empty cells."""
    with (folder / "progress.csv").open() as lines:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(lines)]


def mlflow_run(store: Path) -> Path:
    """Return the folder of the only run in a store of MLflow."""
    (metrics,) = store.glob("*/*/metrics")
    return metrics.parent


def mlflow_series(store: Path, name: str) -> list[tuple[int, float]]:
    """Return steps and values of a metric, in the order of the file."""
    lines = (mlflow_run(store) / "metrics" / name).read_text().splitlines()
    return [(int(step), float(value)) for _, value, step in (line.split() for line in lines)]


def wandb_records(run: Path) -> Iterator[bytes]:
    """Return the records in the files of Weights & Biases: LevelDB's logs, behind a header of 7 bytes."""
    for path in sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        data, at, record = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # the rest of a block that no header fits in
                at += 32768 - at % 32768
                continue
            size, kind = struct.unpack_from("<HB", data, at + 4)
            record += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # whole, or last part
                yield record
                record = b""


def wandb_entries(run: Path) -> list[dict[str, Any]]:
    """Return the logged rows, and the parameters as `{"config": [name, value]}`."""
    lines = "\n".join(record.hex() for record in wandb_records(run))
    script = [sys.executable, "-c", READ_RECORDS]
    done = subprocess.run(script, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_trackers_receive_every_row_once_and_change_nothing(run: Run, tmp_path: Path) -> None:
    folder, plain, store = tmp_path / "run", tmp_path / "plain", tmp_path / "store"
    flags = ("--wandb", "project", "--mlflow", store, "--eval-video")
    status, out, error = run(*TRAIN, "--run-dir", folder, *flags)
    assert status == 0, error
    assert "wandb" not in out + error
    assert "warning" not in error
    shutil.rmtree(runs.newest(folder))  # so that the last row is made again
    assert runs.newest(folder).name == "step_0000000050"
    assert run("resume", folder, "--total-timesteps", "90")[0] == 0
    assert run(*TRAIN, "--run-dir", plain)[0] == 0
    shutil.rmtree(runs.newest(plain))
    assert run("resume", plain, "--total-timesteps", "90")[0] == 0
    assert runs.results(folder) == runs.results(plain)
    assert runs.fingerprint(runs.newest(folder)) == runs.fingerprint(runs.newest(plain))

    rows = table(folder)
    steps = [20, 30, 40, 60, 75, 80, 90]
    assert [row[STEP] for row in rows] == [20, 30, 40, 60, 80, 90]
    assert mlflow_series(store, STEP) == [(step, step) for step in steps]
    capacity = {int(row[STEP]): row["replay/capacity"] for row in rows}
    assert [(step, value) for step, value in mlflow_series(store, "replay/capacity") if step != 75] == [
        *capacity.items()
    ]
    assert {
        str(path.relative_to(mlflow_run(store) / "metrics")) for path in mlflow_run(store).rglob("metrics/*/*")
    } == {name for row in rows for name in row}
    parameters = mlflow_run(store) / "params"
    assert (parameters / "settings.batch_size").read_text() == "8"
    assert (parameters / "total_timesteps").read_text() == "75"  # MLflow never changes a parameter
    assert (mlflow_run(store) / "tags" / "total_timesteps").read_text() == "90"
    assert "status: 3\n" in (mlflow_run(store) / "meta.yaml").read_text()  # finished

    entries = wandb_entries(folder)
    logged = [entry for entry in entries if STEP in entry]
    assert [entry[STEP] for entry in logged] == steps
    assert [entry["_step"] for entry in logged] == steps
    assert {entry["config"][1] for entry in entries if entry.get("config", [""])[0] == "total_timesteps"} == {75, 90}
    assert {path.stem for path in folder.glob("wandb/offline-run-*/*.wandb")} == {
        f"run-{json.loads((folder / 'trackers' / 'wandb.json').read_text())['id']}"
    }
    assert not list((tmp_path / "home").iterdir())


def test_a_tracker_that_does_not_answer_costs_one_warning(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store = tmp_path / "run", tmp_path / "store"
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as closed:
        port = silent.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        closed.close()
        status, _, error = run(
            *TRAIN, "--run-dir", folder, "--wandb", "project", "--mlflow", f"http://127.0.0.1:{port}"
        )
    assert status == 0
    warnings = [line for line in error.splitlines() if line.startswith("warning: ")]
    assert sorted(line.split(": ")[1] for line in warnings) == [f"--mlflow http://127.0.0.1:{port}", "--wandb project"]
    assert all("the run continues" in line for line in warnings)
    status, _, error = run("resume", folder, "--total-timesteps", "80", "--mlflow", store, "--wandb", "never")
    assert (status, "warning" in error) == (0, False)
    assert [step for step, _ in mlflow_series(store, STEP)] == [row[STEP] for row in table(folder)]


def test_a_tracker_whose_process_is_killed_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "progress.csv").write_text(f"{STEP}\n")
    begin = {"tracker": "mlflow", "target": str(tmp_path / "store"), "folder": str(tmp_path), "until": 0}
    begin |= {"progress": str(tmp_path / "progress.csv"), "state": str(tmp_path / "state.json"), "parameters": {}}
    tracker = trackers.RemoteTracker("--mlflow store", begin, lambda: "finished", Console(1))
    process = tracker._process
    assert process is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for step in range(3):
        tracker.write({STEP: step})
    tracker.close()
    assert [record.message for record in caplog.records] == [
        "--mlflow store: its process ended; the run continues, and `resume` sends what is missing"
    ]


def test_missing_packages_and_bad_targets_are_refused_before_anything_is_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, find = tmp_path / "run", planning.importlib.util.find_spec
    monkeypatch.setattr(
        planning.importlib.util, "find_spec", lambda name: None if name in ("wandb", "mlflow") else find(name)
    )
    (tmp_path / "file").touch()
    for flags, parts in (
        (("--wandb", "project"), ["--wandb: needs wandb; pip install 'seer-edge[wandb]'"]),
        (("--mlflow", "store"), ["--mlflow: needs mlflow; pip install 'seer-edge[mlflow]'"]),
        (("--wandb", "a/b/c"), ["--wandb", "'a/b/c' is not a project", "ENTITY/PROJECT"]),
        (("--wandb", ""), ["--wandb", "is not a project"]),
        (("--mlflow", "ftp://host"), ["--mlflow", "'ftp://host' is not the URL of a server", "http://HOST:PORT"]),
        (("--mlflow", "http:/host"), ["--mlflow", "is not the URL of a server"]),
    ):
        status, out, error = run(*TRAIN, "--run-dir", folder, *flags)
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert all(part in error for part in parts), error
    monkeypatch.setattr(planning.importlib.util, "find_spec", find)
    status, _, error = run(*TRAIN, "--run-dir", folder, "--mlflow", tmp_path / "file")
    assert (status, error.count("\n")) == (2, 1)
    assert f"--mlflow {tmp_path / 'file'}: not a folder; name another" in error
    assert not folder.exists()
