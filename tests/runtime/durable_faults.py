"""Shared helpers of the tests of durable files: checkpoints to publish, and faults at every disk step."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import durable
from seer_runtime.durable import files

STEPS = (
    "_create",
    "_open_append",
    "_write",
    "_truncate",
    "_fsync",
    "_fsync_folder",
    "_rename",
    "_make_folder",
    "_remove",
)
ERRNOS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def publish(folder: Path, timestep: int, *, mark: str = "", keep: int = 2) -> Path:
    def write(new: Path) -> None:
        durable.write_tensors(new / "x.safetensors", {"x": np.full(4, timestep, np.int64)})
        (new / "mark.json").write_text(json.dumps(mark))

    return durable.publish_checkpoint(folder, timestep, write, keep=keep)


def load(folder: Path) -> tuple[int, str]:
    """Return (timestep, mark) of the newest checkpoint, after a check that its content is what `publish` wrote."""
    found = durable.newest_checkpoint(folder)
    timestep = found.manifest["timestep"]
    assert sorted(found.manifest["files"]) == ["mark.json", "x.safetensors"]
    tensors = durable.read_tensors(found.path / "x.safetensors")
    assert list(tensors) == ["x"]
    assert tensors["x"].tobytes() == np.full(4, timestep, np.int64).tobytes()
    mark = found.read_json("mark.json")
    assert isinstance(mark, str)
    return timestep, mark


class Faults:
    """Lets the first `allowed` disk steps pass and fails the next one. If `for_good` is true, all later steps fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed = 10**9
        self.for_good = False
        self.errno = errno.ENOSPC
        self.trace: list[str] = []
        for step in STEPS:
            monkeypatch.setattr(files, step, self.guard(step, getattr(files, step)))

    def guard(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            number = len(self.trace)
            self.trace.append(name)
            if number == self.allowed or (self.for_good and number > self.allowed):
                raise OSError(self.errno, f"injected into {name}")
            return step(*args)

        return guarded

    def at(self, allowed: int, for_good: bool, number: int = errno.ENOSPC) -> None:
        self.allowed, self.for_good, self.errno, self.trace = allowed, for_good, number, []

    def off(self) -> None:
        self.at(10**9, False)
