"""The logs of trackers: one run of MLflow for each run, and TensorBoard events without those of a killed process."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from seer_edge.training.tracker_process import Logger, MlflowLog
from seer_edge.training.trackers import TensorBoard

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def folder_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow use a folder, as the process of a tracker does."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def _log(store: Path, parameters: dict[str, Any], run_id: str | None = None) -> MlflowLog:
    return MlflowLog({"target": str(store), "folder": "runs/a", "parameters": parameters}, run_id, lambda created: None)


def test_the_id_of_a_run_is_known_before_its_parameters_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that fails in between must not get another run at each try."""

    def fail(*unused: Any) -> None:
        raise OSError("no answer")

    monkeypatch.setattr(MlflowLog, "_write_parameters", fail)
    created: list[str] = []
    with pytest.raises(OSError, match="no answer"):
        MlflowLog({"target": str(tmp_path), "folder": "runs/a", "parameters": {}}, None, created.append)
    assert len(created) == 1


def test_names_that_mlflow_refuses_are_changed(tmp_path: Path) -> None:
    log = _log(tmp_path, {"env_kwargs.size=px": 8})
    assert log._client.get_run(log.id).data.params == {"env_kwargs.size_px": "8"}


def test_a_setting_that_changes_back_has_its_present_value(tmp_path: Path) -> None:
    log = _log(tmp_path, {"threads": 1})
    for threads, tag in ((2, "2"), (1, "1")):
        log = _log(tmp_path, {"threads": threads}, log.id)
        data = log._client.get_run(log.id).data
        assert (data.params["threads"], data.tags["threads"]) == ("1", tag)


@pytest.mark.parametrize("until", [0, 20])
def test_tensorboard_drops_what_a_killed_process_wrote_after_the_checkpoint(until: int, tmp_path: Path) -> None:
    """An event that starts a session tells TensorBoard to drop all earlier events from its step on."""
    tracker = TensorBoard(tmp_path, until)
    tracker.write({"time/total_timesteps": 30.0})
    tracker.close()
    (file,) = tmp_path.glob("events.*")
    start = b"\x10" + bytes([until + 1]) + b":\x02\x08\x01"  # field 2, the step; field 7, a session with status START
    assert start in file.read_bytes()


@pytest.mark.parametrize("lost", [{}, {"step": 0, "evaluated": -1}])
def test_each_row_is_logged_once_over_several_processes_of_a_run(lost: dict[str, int], tmp_path: Path) -> None:
    """A run that was stopped at step 20, and evaluated there when it was resumed, has a second row of that step.

    A server may have a row although it did not answer, so that the file of the tracker lacks its step.
    """
    store, progress = tmp_path / "store", tmp_path / "progress.csv"
    begin = {"tracker": "mlflow", "target": str(store), "folder": "runs/a", "parameters": {}, "until": 30}
    begin |= {"state": str(tmp_path / "state.json"), "progress": str(progress)}
    rows = ["time/total_timesteps,eval/mean_reward", "10,", "20,"]
    for later in ([], ["20,1.5"], [], ["30,2.5"], []):
        rows += later
        progress.write_text("\n".join(rows) + "\n")
        Logger(begin).end("interrupted")
        (tmp_path / "state.json").write_text(json.dumps(json.loads((tmp_path / "state.json").read_text()) | lost))
    client = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=str(store))
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    logged = {
        name: [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        for name in ("time/total_timesteps", "eval/mean_reward")
    }
    assert logged == {"time/total_timesteps": [10, 20, 20, 30], "eval/mean_reward": [20, 30]}
