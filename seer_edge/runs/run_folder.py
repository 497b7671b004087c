"""A run's folder (design, section 6): where it is, what stands in it, and how it is read back."""

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seer_edge.config.config import TrainConfig
from seer_edge.errors import BadInputError
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


SHORT_BYTES = 4_096
"""More than the head of a table that has no row yet."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

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
        """One row per finished game of training."""
        return self.path / "episodes.csv"

    @property
    def summary(self) -> Path:
        """Updated at each evaluation and at the end."""
        return self.path / "summary.json"

    @property
    def encoder(self) -> Path:
        """The frozen encoder, from the freeze on."""
        return self.path / "encoder.onnx"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard events, when asked for."""
        return self.path / "tb"

    @property
    def checkpoints(self) -> Path:
        """Published generations."""
        return self.path / "checkpoints"

    def write_config(self, config: TrainConfig) -> None:
        """Write `config.json`. Raises OSError."""
        durable.write_json(self.config, {**config.to_json(), "versions": versions()})

    def says(self, config: TrainConfig) -> bool:
        """Whether `config.json` is there and says the same as `config`."""
        try:
            found = durable.read_json(self.config)
        except (OSError, durable.CorruptFileError):
            return False
        if isinstance(found, dict):
            found.pop("versions", None)
        return bool(found == json.loads(json.dumps(config.to_json())))

    @property
    def has_not_begun(self) -> bool:
        """Whether no generation was ever published here and no step was told of."""
        if any(not entry.name.startswith(".") for entry in _entries(self.checkpoints)):
            return False
        try:
            return len(durable.read_bytes(self.progress, SHORT_BYTES).splitlines()) <= 1
        except FileNotFoundError:
            return True
        except (OSError, durable.CorruptFileError):
            return False

    def read_config(self) -> TrainConfig:
        """What `config.json` says. Raises BadInputError."""
        try:
            found = durable.read_json(self.config)
        except (OSError, durable.CorruptFileError) as error:
            raise BadInputError(f"{self.config}: cannot be read ({error}), and there is no checkpoint") from error
        if not isinstance(found, dict):
            raise BadInputError(f"{self.config}: not a configuration of this version")
        found.pop("versions", None)
        return TrainConfig.from_json(found)

    def versions(self) -> dict[str, str]:
        """What the run was made with, as `config.json` says; empty where it does not."""
        try:
            found = durable.read_json(self.config)["versions"].items()
        except (OSError, durable.CorruptFileError, LookupError, TypeError, AttributeError):
            return {}
        return {str(name): str(version) for name, version in found}

    def other_versions(self) -> list[str]:
        """A line for each package that the run was made with in another version than is here."""
        now = versions()
        return [
            f"{name} is {now.get(name)} here and was {version}"
            for name, version in self.versions().items()
            if now.get(name) != version
        ]

    @property
    def is_finished(self) -> bool:
        """Whether `summary.json` says so; a process that is killed at the very end may not have come to that."""
        try:
            found = durable.read_json(self.summary)
        except (OSError, durable.CorruptFileError):
            return False
        return isinstance(found, dict) and found.get("status") == "finished"

    def mend(self, config: TrainConfig, graph: bytes | None) -> list[str]:
        """Write anew what is not as the checkpoint has it; a line for each file. Raises OSError."""
        lines, anew = [], "not what the checkpoint says, which counts; it is written anew"
        if not self.says(config):
            self.write_config(config)
            lines.append(f"{self.config}: {anew}")
        if graph is not None and not _holds(self.encoder, graph):
            durable.write_atomic(self.encoder, graph)
            lines.append(f"{self.encoder}: {anew}")
        return lines

    def check_places(self) -> None:
        """Raise BadInputError where something stands that a run cannot write over, or that leads out of the folder."""
        for file in (self.config, self.progress, self.episodes, self.summary, self.encoder):
            if file.is_dir() and not file.is_symlink():
                raise BadInputError(f"{file}: a folder stands where a file belongs; move it away")
        if os.path.lexists(self.tensorboard) and (self.tensorboard.is_symlink() or not self.tensorboard.is_dir()):
            raise BadInputError(f"{self.tensorboard}: not a folder; move it away")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other writers. Raises BadInputError where there is one."""
        try:
            lock = FolderLock(self.path)
        except FolderBusyError as error:
            raise BadInputError(f"{error}; wait until it ends, or stop it") from error
        except OSError as error:
            raise BadInputError(
                f"{self.path}: cannot be locked ({error.strerror}); name a folder on a local disk"
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
    """`runs/ENV__ALGO__SEED__TIME`."""
    moment = time.strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.env_name}__{config.algo}__{config.seed}__{moment}"


def check(path: Path) -> None:
    """Raise BadInputError where `path` holds something already; writes nothing."""
    with _writable(path):
        if path.is_dir() and any(path.iterdir()):
            raise BadInputError(
                f"--run-dir {path}: not empty; name a new folder, or go on with a run: seer-edge resume {path}"
            )
        if path.exists() and not path.is_dir():
            raise BadInputError(f"--run-dir {path}: not a folder; name a new one")
        nearest = next(parent for parent in path.absolute().parents if parent.exists())
        if not nearest.is_dir():
            raise BadInputError(f"--run-dir {path}: {nearest} is a file; name a folder elsewhere")


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(f"--run-dir {path}: cannot be written ({error.strerror}); name another folder") from error


def create(path: Path, config: TrainConfig) -> RunFolder:
    """Make the folder and write `config.json`. Raises BadInputError where that is not possible."""
    check(path)
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    run = RunFolder(path)
    with _writable(path):
        try:
            durable.make_folder(path)
            with run.locked():  # against another that found it empty as well
                check(path)
                run.write_config(config)
        except OSError:
            with contextlib.suppress(OSError):
                durable.remove(run.config)  # the rename may have come before the error
            _remove_empty(path, existing)
            raise
    return run


def _remove_empty(path: Path, existing: Path) -> None:
    """Take back the folders that a failed `create` made."""
    for folder in (path, *path.parents):
        if folder == existing:
            return
        try:
            folder.rmdir()
        except OSError:
            continue


def is_run(path: Path) -> bool:
    """Whether `path` looks like a run's folder. Raises OSError."""
    run = RunFolder(path)
    return run.config.is_file() or run.checkpoints.is_dir()


def bundle_mend(path: Path, wanted: str = "a bundle that `export` wrote") -> str:
    """What to do about what stands at `path` in place of a sound bundle; `wanted` is what the command takes.

    Raises OSError.
    """
    if path.is_dir():
        make = f"make one of this run: seer-edge export {path} -o policy.seer"
        return make if is_run(path) else f"give {wanted}"
    if not path.is_file():
        return "give a regular file"
    return "export it anew with this release" if begins_as_bundle(path) else f"give {wanted}"


def open_run(path: Path, wanted: str = "the --run-dir of a run") -> RunFolder:
    """A run that exists. Raises BadInputError where `path` is none; `wanted` is what the command takes."""
    try:
        if is_run(path):
            return RunFolder(path)
        what = "not a run's folder" if path.exists() else "there is no such file or folder"
        if path.is_file():
            what += "; a bundle is for act, eval and train --from"
    except OSError as error:  # as of a name that is too long
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); give {wanted}") from error
    raise BadInputError(f"{path}: {what}; give {wanted}")


def versions() -> dict[str, str]:
    """What ran: the interpreter, the machine and the packages that are installed."""
    found: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
