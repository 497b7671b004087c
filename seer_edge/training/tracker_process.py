"""The separate process of a tracker: reads rows from its standard input and logs them to Weights & Biases or MLflow.

`trackers.RemoteTracker` starts it. The first line of its input says where to log, each further line is a row or the
end. It writes a line for each problem. Rows that a tracker did not take wait for the next attempt.
"""

import contextlib
import csv
import importlib
import json
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from seer_runtime import durable
from seer_runtime.durable.files import one_line

EXPERIMENT = "seer-edge"
"""Experiment of MLflow for all runs, unless MLFLOW_EXPERIMENT_NAME names another."""
STEP, EVALUATION = "time/total_timesteps", "eval/mean_reward"
END_SECONDS = 40
"""Time to send what is left once the run has ended: enough for one request that fails."""
REQUEST_SECONDS, REQUEST_RETRIES = 10, 2
"""Bounds of one request to a server. Each attempt has this time."""
SETTINGS = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # otherwise MLflow 3.7 and newer refuse a folder
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(REQUEST_RETRIES),
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "WANDB_ERROR_REPORTING": "false",
}
"""Environment variables of the packages. They report no usage, and do not wait long."""

Row = Mapping[str, float]


class Log(Protocol):
    """A run of a tracker.

    Attributes:
        step: the last step that it is known to hold.
        evaluated: the step of the last evaluation that it is known to hold, -1 without one.

    """

    step: int
    evaluated: int

    def write(self, row: Row) -> None:
        """Log one row."""

    def end(self, status: str) -> None:
        """End the run with the status of ours."""


class WandbLog:
    """A run of Weights & Biases. Its files are in the run's folder. `WANDB_MODE=offline` needs no network."""

    def __init__(self, begin: Mapping[str, Any], run_id: str, step: int, evaluated: int) -> None:
        os.environ.setdefault("WANDB_CACHE_DIR", f"{begin['folder']}/wandb/cache")  # otherwise in the home
        wandb: Any = importlib.import_module("wandb")
        entity, _, project = begin["target"].rpartition("/")
        settings = wandb.Settings(
            silent=True,
            console="off",
            init_timeout=REQUEST_SECONDS * (1 + REQUEST_RETRIES),
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        self._run = wandb.init(
            entity=entity or None,
            project=project,
            id=run_id,
            name=Path(begin["folder"]).name,
            dir=begin["folder"],
            resume="allow",
            settings=settings,
        )
        self._run.config.update(begin["parameters"], allow_val_change=True)
        self.step, self.evaluated = step, evaluated

    def write(self, row: Row) -> None:
        """Log one row."""
        self.step = int(row[STEP])
        self._run.log(dict(row), step=self.step)
        self.evaluated = self.step if EVALUATION in row else self.evaluated

    def end(self, status: str) -> None:
        """End the run. Waits for the server."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


class MlflowLog:
    """A run of MLflow, in a folder or on a server."""

    STATUS: Mapping[str, str] = {"finished": "FINISHED", "interrupted": "KILLED"}

    def __init__(self, begin: Mapping[str, Any], run_id: str | None, created: Callable[[str], object]) -> None:
        """Continue the run `run_id`; None begins one, whose id `created` gets before anything else can fail."""
        self._entities: Any = importlib.import_module("mlflow.entities")
        self._client: Any = importlib.import_module("mlflow.tracking").MlflowClient(tracking_uri=begin["target"])
        if run_id is None:
            run_id = self._create(Path(begin["folder"]).name)
            created(run_id)
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.id = run_id
        data = self._client.get_run(self.id).data
        self.step = int(data.metrics.get(STEP, 0))
        evaluations = self._client.get_metric_history(self.id, EVALUATION)
        self.evaluated = max((int(metric.step) for metric in evaluations), default=-1)
        self._write_parameters(begin["parameters"], data)

    def _create(self, name: str) -> str:
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(experiment)
        place = self._client.create_experiment(experiment) if found is None else found.experiment_id
        return str(self._client.create_run(place, run_name=name).info.run_id)

    def _write_parameters(self, parameters: Mapping[str, Any], data: Any) -> None:
        """Write the parameters. MLflow never changes one, so another value of a resumed run is a tag.

        MLflow refuses some characters in their names.
        """
        texts = {
            re.sub(r"[^\w\-. /]", "_", name): value if isinstance(value, str) else json.dumps(value)
            for name, value in parameters.items()
        }
        new = [self._entities.Param(name, text) for name, text in texts.items() if name not in data.params]
        for some in range(0, len(new), 100):  # the most that one request may have
            self._client.log_batch(self.id, params=new[some : some + 100])
        for name, text in texts.items():
            if data.tags.get(name, data.params.get(name, text)) != text:
                self._client.set_tag(self.id, name, text)

    def write(self, row: Row) -> None:
        """Log one row."""
        step, now = int(row[STEP]), int(time.time() * 1000)
        metrics = [self._entities.Metric(name, float(value), now, step) for name, value in row.items()]
        self._client.log_batch(self.id, metrics=metrics)
        self.step, self.evaluated = step, step if EVALUATION in row else self.evaluated

    def end(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self.id, status=self.STATUS.get(status, "FAILED"))


class Logger:
    """Logs the rows of a run in order, each once, also over several processes of the run.

    The id of the tracker's run, the last step that it took, and that of the last evaluation are in a file of the run's
    folder.
    """

    def __init__(self, begin: Mapping[str, Any]) -> None:
        self._begin = begin
        self._state_path = Path(begin["state"])
        self._state = _read_state(self._state_path, begin["target"])
        self._rows = _read_rows(Path(begin["progress"]), begin["until"])
        self._log: Log | None = None

    def add(self, row: Row) -> None:
        """Take one row, which `send` logs."""
        self._rows.append(row)

    def send(self) -> None:
        """Log the rows that wait. Raises the exceptions of the package; the rows then wait for the next call."""
        try:
            log = self._log or self._open()
            self._log = log
            while self._rows:
                row = self._rows[0]
                # A run that was stopped at a logged step may have evaluated there when it was resumed.
                if row[STEP] > log.step or (row[STEP] == log.step > log.evaluated and EVALUATION in row):
                    log.write(row)
                    self._save(step=log.step, evaluated=log.evaluated)
                del self._rows[0]
        except Exception:
            self._log = None  # opened again, because the server may have the row although it did not answer
            raise

    def end(self, status: str) -> None:
        """Log the rows that wait, and end the run of the tracker."""
        self.send()
        if self._log is not None:
            self._log.end(status)

    def _open(self) -> Log:
        run_id = self._state.get("id")
        if self._begin["tracker"] == "mlflow":
            return MlflowLog(self._begin, run_id, lambda created: self._save(id=created))
        self._save(id=run_id or uuid.uuid4().hex)
        return WandbLog(self._begin, self._state["id"], self._state.get("step", 0), self._state.get("evaluated", -1))

    def _save(self, **entries: Any) -> None:
        self._state |= entries
        durable.make_folder(self._state_path.parent)
        durable.write_json(self._state_path, self._state)


def _read_state(path: Path, target: str) -> dict[str, Any]:
    """Return the content of the tracker's file. A run that logs to another target than before begins there."""
    with contextlib.suppress(OSError, durable.CorruptFileError):
        state = durable.read_json(path)
        if isinstance(state, dict) and state.get("target") == target:
            return state
    return {"target": target}


def _read_rows(path: Path, until: int) -> list[Row]:
    """Return the rows of `progress.csv` up to step `until`, without empty cells."""
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]  # the run may be writing the last one
    rows = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(whole)]
    return [row for row in rows if row[STEP] <= until]


def _serve(requests: IO[str], problems: IO[str]) -> None:
    """Log what `requests` bring until they end. A run that ends without a status has failed."""
    logger, status = Logger(json.loads(requests.readline())), "failed"
    _send(logger, problems)
    for line in requests:
        message = json.loads(line)
        if "end" in message:
            status = message["end"]
            break
        logger.add(message["row"])
        _send(logger, problems)
    signal.alarm(END_SECONDS)
    logger.end(status)


def _send(logger: Logger, problems: IO[str]) -> None:
    try:
        logger.send()
    except Exception as error:  # whatever the packages raise
        print(one_line(error), file=problems, flush=True)


def main() -> None:
    """Serve one run. Nothing else that this process writes leaves it."""
    requests, problems = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    try:
        _serve(requests, problems)
    except Exception as error:
        print(one_line(error), file=problems, flush=True)
        os._exit(1)  # without the handlers of the packages, which may wait


if __name__ == "__main__":
    main()
