"""The folder of a run: its files, how to create it, open it, lock it and repair it."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.config import TrainConfig
from seer_edge.errors import BadInputError, written_to
from seer_runtime import durable
from seer_runtime.durable.container import begins_as_bundle
from seer_runtime.durable.lock import FolderBusyError, FolderLock

PACKAGES = (
    "seer-edge",
    "torch",
    "numpy",
    "onnxruntime",
    "onnx",
    "gymnasium",
    "ale-py",
    "dm_control",
    "mujoco",
    "opencv-python-headless",
)
"""Packages whose versions `config.json` records."""

EMPTY_TABLE_BYTES = 4_096
"""More than a table holds that has only its header."""


@dataclass(frozen=True)
class RunFolder:
    """The files of a run, by path."""

    path: Path

    @property
    def config(self) -> Path:
        """Every resolved setting."""
        return self.path / "config.json"

    @property
    def progress(self) -> Path:
        """One row per log interval."""
        return self.path / "progress.csv"

    @property
    def episodes(self) -> Path:
        """One row per finished training episode."""
        return self.path / "episodes.csv"

    @property
    def summary(self) -> Path:
        """Updated at each evaluation and at the end."""
        return self.path / "summary.json"

    @property
    def encoder(self) -> Path:
        """The frozen encoder; written at the freeze."""
        return self.path / "encoder.onnx"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events, with `--tensorboard`."""
        return self.path / "tb"

    @property
    def checkpoints(self) -> Path:
        """Published checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint of the best evaluation, without replay, with `--keep-best`."""
        return self.path / "best"

    @property
    def analysis(self) -> Path:
        """The encoder's weights at some steps, with `--analyze`."""
        return self.path / "analysis"

    @property
    def videos(self) -> Path:
        """Videos of evaluations, with `--eval-video`."""
        return self.path / "videos"

    @property
    def trackers(self) -> Path:
        """Where the run is in other trackers, with `--wandb` or `--mlflow`."""
        return self.path / "trackers"

    def events(self, config: TrainConfig) -> Path:
        """The folder of TensorBoard events."""
        if config.tensorboard_dir is None:
            return self.tensorboard
        return Path(config.tensorboard_dir) / self.path.absolute().name

    def write_config(self, config: TrainConfig) -> None:
        """Write `config.json`. Raises OSError."""
        durable.write_json(self.config, {**config.to_json(), "versions": versions()})

    def _config_matches(self, config: TrainConfig) -> bool:
        """Return whether `config.json` exists and holds the same settings as `config`."""
        try:
            found = durable.read_json(self.config)
        except (OSError, durable.CorruptFileError):
            return False
        if isinstance(found, dict):
            found.pop("versions", None)
        return bool(found == json.loads(json.dumps(config.to_json())))

    @property
    def has_no_progress(self) -> bool:
        """Whether no checkpoint was ever published here and no row of progress was written."""
        visible = (entry for entry in _entries(self.checkpoints) if not entry.name.startswith("."))
        # A process that was killed while it replaced the only checkpoint left that under a hidden name.
        if any(visible) or durable.checkpoint_steps(self.checkpoints):
            return False
        try:
            return len(durable.read_bytes(self.progress, EMPTY_TABLE_BYTES).splitlines()) <= 1
        except FileNotFoundError:
            return True
        except (OSError, durable.CorruptFileError):
            return False

    def read_config(self) -> TrainConfig:
        """Read `config.json`. Raises BadInputError."""
        try:
            found = durable.read_json(self.config)
        except (OSError, durable.CorruptFileError) as error:
            raise BadInputError(
                f"{self.config}: cannot be read ({error}), and the run has no checkpoint; start a new run"
            ) from error
        if not isinstance(found, dict):
            raise BadInputError(f"{self.config}: not a configuration of this version; start a new run")
        found.pop("versions", None)
        return TrainConfig.from_json(found)

    def versions(self) -> dict[str, str]:
        """Return the versions that `config.json` records, by package; empty if it records none."""
        try:
            found = durable.read_json(self.config)["versions"].items()
        except (OSError, durable.CorruptFileError, LookupError, TypeError, AttributeError):
            return {}
        return {str(name): str(version) for name, version in found}

    def changed_versions(self) -> list[str]:
        """Return a line for each package whose installed version differs from the one that made the run."""
        now = versions()
        return [
            f"{name} is {now.get(name)} here and was {version}"
            for name, version in self.versions().items()
            if now.get(name) != version
        ]

    @property
    def is_finished(self) -> bool:
        """Whether `summary.json` says so. A process killed at the very end may not have written that."""
        try:
            found = durable.read_json(self.summary)
        except (OSError, durable.CorruptFileError):
            return False
        return isinstance(found, dict) and found.get("status") == "finished"

    def repair(self, config: TrainConfig, graph: bytes | None) -> list[str]:
        """Rewrite `config.json` and `encoder.onnx` where they differ from the checkpoint's `config` and `graph`.

        Return a line for each rewritten file. Raises OSError.
        """
        lines, message = [], "differs from the checkpoint; rewritten from the checkpoint"
        if not self._config_matches(config):
            self.write_config(config)
            lines.append(f"{self.config}: {message}")
        if graph is not None and not _holds(self.encoder, graph):
            durable.write_atomic(self.encoder, graph)
            lines.append(f"{self.encoder}: {message}")
        return lines

    def check_places(self) -> None:
        """Raise BadInputError if there is a folder at a file's path, or a folder's path is not a folder here."""
        for file in (self.config, self.progress, self.episodes, self.summary, self.encoder):
            if file.is_dir() and not file.is_symlink():
                raise BadInputError(f"{file}: is a folder, but must be a file; move it away")
        for folder in (self.tensorboard, self.analysis, self.videos, self.trackers):
            if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
                raise BadInputError(f"{folder}: not a folder; move it away")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other writers. Raises BadInputError if another process holds the lock."""
        try:
            lock = FolderLock(self.path)
        except FolderBusyError as error:
            raise BadInputError(f"{error}; wait until it ends, or stop it") from error
        except OSError as error:
            raise BadInputError(
                f"{self.path}: cannot be locked ({error.strerror}); use a folder on a local disk"
            ) from error
        try:
            yield
        finally:
            lock.release()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _holds(path: Path, data: bytes) -> bool:
    try:
        return durable.read_bytes(path, len(data)) == data
    except (OSError, durable.CorruptFileError):
        return False


def default_path(config: TrainConfig) -> Path:
    """Return the default folder of a new run, which does not exist: `runs/ENV__ALGO__SEED__TIME`, or with `-2` or more.

    Another run may create it at any moment.
    """
    moment = time.strftime("%Y%m%d-%H%M%S")
    path = Path("runs") / f"{config.env_name}__{config.algo}__{config.seed}__{moment}"
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([path], numbered) if not os.path.lexists(path))


def create_default(config: TrainConfig) -> RunFolder:
    """Create the default folder of a new run, which no other run has. Raises BadInputError if that is not possible."""
    while True:
        path = default_path(config)
        with written_to("--run-dir", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                path.mkdir()
            except FileExistsError:  # another run was faster
                continue
        return create(path, config)


def check(path: Path, flag: str = "--run-dir") -> None:
    """Raise BadInputError, which names `flag`, if a new run cannot be created at `path`. Writes nothing.

    A folder is as good as empty if the process that created it was killed before it had written `config.json`.
    """
    with written_to(flag, path):
        if path.is_dir() and set(path.iterdir()) - set(durable.leftovers(RunFolder(path).config)):
            raise BadInputError(
                f"{flag} {path}: not empty; name a new folder, or continue the run with: seer-edge resume {path}"
            )
        if path.exists() and not path.is_dir():
            raise BadInputError(f"{flag} {path}: not a folder; name a new one")
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if not nearest.is_dir():
            raise BadInputError(f"{flag} {path}: {nearest} is a file; name a folder elsewhere")
    check_outside_runs(path, flag)


def check_outside_runs(path: Path, flag: str) -> None:
    """Raise BadInputError, which names `flag`, if `path` is a run's folder or inside one."""
    with written_to(flag, path):
        run = next((folder for folder in (path, *path.absolute().parents) if is_run(folder)), None)
    if run is not None:
        raise BadInputError(f"{flag} {path}: {run} is a run's folder; name a folder elsewhere")


def create(path: Path, config: TrainConfig) -> RunFolder:
    """Create the folder and write `config.json`. Raises BadInputError if that is not possible."""
    check(path)
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    run = RunFolder(path)
    with written_to("--run-dir", path):
        try:
            durable.make_folder(path)
            with run.locked():  # another process may have found the folder empty too
                check(path)
                run.write_config(config)
        except OSError:
            with contextlib.suppress(OSError):
                durable.remove(run.config)  # the error may come after the rename
            _remove_empty(path, existing)
            raise
    return run


def _remove_empty(path: Path, existing: Path) -> None:
    """Remove the folders that a failed `create` made."""
    for folder in (path, *path.parents):
        if folder == existing:
            return
        try:
            folder.rmdir()
        except OSError:
            continue


def is_run(path: Path) -> bool:
    """Return whether `path` looks like a run's folder. Raises OSError."""
    run = RunFolder(path)
    return run.config.is_file() or run.checkpoints.is_dir()


def bundle_hint(path: Path, wanted: str = "a bundle that `export` wrote") -> str:
    """Say what to do about a `path` that is not a sound bundle; `wanted` names what the command accepts.

    Raises OSError.
    """
    if path.is_dir():
        make = f"make one of this run: seer-edge export {path} -o policy.seer"
        return make if is_run(path) else f"give {wanted}"
    if not path.is_file():
        return "give a regular file"
    return "export it again with this release" if begins_as_bundle(path) else f"give {wanted}"


def open_run(path: Path, wanted: str = "the --run-dir of a run") -> RunFolder:
    """Return the run at `path`. Raises BadInputError if it is not one; `wanted` names what the command accepts."""
    try:
        if is_run(path):
            return RunFolder(path)
        what = "not a run's folder" if path.exists() else "there is no such file or folder"
        if path.is_file():
            what += "; bundles are for act, eval and train --from"
    except OSError as error:  # for example a name that is too long
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); give {wanted}") from error
    raise BadInputError(f"{path}: {what}; give {wanted}")


def versions() -> dict[str, str]:
    """Return the versions of the interpreter and the installed packages, and the machine type."""
    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
