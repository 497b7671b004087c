"""Hostile files in a run's folder: rejected without running code, hanging or using much memory."""

import gzip
import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seer_runtime import durable
from tests.runtime.durable_faults import listing, publish

MIB = 2**20
MAX_GROWTH_BYTES = 100_000_000
SECONDS = 60

READER = """
import sys
from pathlib import Path
import seer_runtime.durable as durable

def memory(line):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(line)[1].split()[0])

checkpoints, newer = Path(sys.argv[1]), Path(sys.argv[2])
before = memory("VmRSS:")
Path("/proc/self/clear_refs").write_text("5")  # reset the peak
try:
    found = durable.newest_checkpoint(checkpoints)
    print(found.manifest["timestep"], len(found.skipped), *(reason for _, reason in found.skipped))
except (durable.CorruptFileError, durable.NoSoundCheckpointError) as error:
    print("refused", error)
# Read the files as a caller without a manifest would.
for name, read in {
    "mark.json": durable.read_json,
    "x.safetensors": durable.read_tensors,
    "manifest.json": durable.read_json,
    "encoder.onnx": lambda path: durable.read_bytes(path, 2**20),
}.items():
    try:
        read(newer / name)
    except (durable.CorruptFileError, FileNotFoundError, NotADirectoryError) as error:
        assert "\\n" not in str(error)
exec(sys.argv[3])
print("grown", memory("VmHWM:") - before)
"""


class Canary:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self.path), "w")


def replace(name: str, data: bytes) -> Callable[[Path], None]:
    """Replace a file and its record in the manifest, so that only its content is wrong."""

    def replaced(newer: Path) -> None:
        (newer / name).write_bytes(data)
        if name != "manifest.json":
            trust(newer, name)

    return replaced


def trust(newer: Path, name: str) -> None:
    data = (newer / name).read_bytes()
    manifest = json.loads((newer / "manifest.json").read_bytes())
    manifest["files"][name] = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (newer / "manifest.json").write_text(json.dumps(manifest))


def names(name: str) -> Callable[[Path], None]:
    """Add `name` to the manifest, with a valid size and hash."""

    def named(newer: Path) -> None:
        manifest = json.loads((newer / "manifest.json").read_bytes())
        manifest["files"][name] = manifest["files"]["mark.json"]
        (newer / "manifest.json").write_text(json.dumps(manifest))

    return named


def link(name: str, target: str) -> Callable[[Path], None]:
    def linked(newer: Path) -> None:
        (newer / name).unlink()
        (newer / name).symlink_to(target)

    return linked


def pipe(name: str) -> Callable[[Path], None]:
    def piped(newer: Path) -> None:
        (newer / name).unlink()
        os.mkfifo(newer / name)

    return piped


def linked_folder(newer: Path) -> None:
    outside = newer.parent.parent / "outside"
    shutil.move(newer, outside)
    newer.symlink_to(outside)


def sparse(name: str, head: bytes, size: int) -> Callable[[Path], None]:
    def made(newer: Path) -> None:
        (newer / name).write_bytes(head)
        os.truncate(newer / name, size)

    return made


def bomb(newer: Path) -> None:
    with zipfile.ZipFile(newer / "x.safetensors", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x.npy", bytes(200 * MIB))
    trust(newer, "x.safetensors")


def many_tensors() -> bytes:
    """Return a header of the maximum length with as many tensors as possible."""
    entries = b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % name for name in range(17_500))
    assert 0.9 * MIB < len(entries) < MIB
    return (len(entries) + 2).to_bytes(8, "little") + b"{" + entries + b"}"


HEADER_OF_SPACES = 99 * MIB
HOSTILE: dict[str, Callable[[Path], None]] = {
    "zip bomb": bomb,
    "gzip bomb": replace("mark.json", gzip.compress(bytes(200 * MIB), 1)),
    "parent": names("../step_0000000001/mark.json"),
    "absolute": names("/etc/hostname"),
    "dots": names(".."),
    "nul": names("mark\0.json"),
    "surrogate": names("\ud800"),
    "long name": names("x" * 100_000),
    "link to a device": link("mark.json", "/dev/zero"),
    "link out": link("x.safetensors", "/etc/hostname"),
    "link beside": link("x.safetensors", "mark.json"),
    "manifest is a link": link("manifest.json", "../step_0000000001/manifest.json"),
    "folder is a link": linked_folder,
    "pipe": pipe("mark.json"),
    "pipe for tensors": pipe("x.safetensors"),
    "pipe for a manifest": pipe("manifest.json"),
    "header of 2**63": replace("x.safetensors", (2**63).to_bytes(8, "little") + bytes(100)),
    "header of 2**64 - 1": replace("x.safetensors", b"\xff" * 8 + b"{}"),
    "header of spaces": sparse("x.safetensors", HEADER_OF_SPACES.to_bytes(8, "little") + b"{}", HEADER_OF_SPACES + 8),
    "header of many tensors": replace("x.safetensors", many_tensors()),
    "huge JSON": sparse("mark.json", b"[", 1000 * MIB),
    "huge manifest": sparse("manifest.json", b"{", 1000 * MIB),
    "deep JSON": replace("mark.json", b"[" * 10**6),
    "deep manifest": replace("manifest.json", b'{"a":' * 200_000),
    "deep header": replace("x.safetensors", (10**6).to_bytes(8, "little") + b"[" * 10**6),
    "manifest of empty lists": replace("manifest.json", b"[" + b"[]," * 349_000 + b"[]]"),
    "manifest of empty objects": replace("manifest.json", b"[" + b"{}," * 349_000 + b"{}]"),
    "manifest of short keys": replace(
        "manifest.json", b"{" + b",".join(b'"%x":{}' % key for key in range(100_000)) + b"}"
    ),
    "long numbers": replace("manifest.json", b"[" + b",".join([b"9" * 4300] * 240) + b"]"),
}


def read(checkpoints: Path, newer: Path, also: str = "") -> tuple[list[str], int]:
    """Read the newest checkpoint in a new interpreter; return its output and the growth of RSS in bytes."""
    command = [sys.executable, "-c", READER, str(checkpoints), str(newer), also]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 0, result.stderr
    output, grown = result.stdout.splitlines()
    return output.split(maxsplit=2), int(grown.removeprefix("grown "))


@pytest.mark.fault("hostile files in a checkpoint", promise="rejected in one line; no code runs, no hang, under 100 MB")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_checkpoint_is_harmless(tmp_path: Path, kind: str) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    publish(checkpoints, 1)
    newer = publish(checkpoints, 2)
    HOSTILE[kind](newer)
    (timestep, skipped, *_), grown = read(checkpoints, newer)
    # Where only the content of a listed file is wrong, the checkpoint loads and the file's reader rejects it.
    assert (timestep, skipped) in (("1", "1"), ("2", "0"))
    assert grown < MAX_GROWTH_BYTES


def test_the_memory_check_detects_a_large_read(tmp_path: Path) -> None:
    newer = publish(tmp_path, 1)
    sparse("mark.json", b"[", 200 * MIB)(newer)
    _, grown = read(tmp_path, newer, "durable.read_bytes(newer / 'mark.json', 2**40)")
    assert grown > 190 * MIB
    _, grown = read(tmp_path, newer)
    assert grown < 20 * MIB


@pytest.mark.fault("a pickle in place of each file of a checkpoint", promise="it is never unpickled")
@pytest.mark.parametrize("name", ["manifest.json", "mark.json", "x.safetensors", "encoder.onnx"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str, protocol: int) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    publish(checkpoints, 1)
    newer = publish(checkpoints, 2)
    canary = tmp_path / "canary"
    data = pickle.dumps(Canary(canary), protocol)
    replace(name, data)(newer)
    assert durable.newest_checkpoint(checkpoints).manifest["timestep"] == (1 if name == "manifest.json" else 2)
    for reading in (durable.read_json, durable.read_tensors):
        with pytest.raises(durable.CorruptFileError):
            reading(newer / name)
    assert not canary.exists()
    pickle.loads(data).close()
    assert canary.exists()


@pytest.mark.fault("symbolic links in place of `checkpoints/` or of files to write", promise="links are not followed")
def test_writing_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    publish(outside, 1)
    (outside / ".tmp_mine").mkdir()
    before = {path: path.lstat() for path in outside.rglob("*")}
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic link"):
        publish(run / "checkpoints", 2)
    ((answer, *_), _) = read(run / "checkpoints", outside)
    assert answer == "refused"

    (run / "checkpoints").unlink()
    (run / "checkpoints").mkdir()
    for name in (".tmp_step_0000000002", "step_0000000002", ".replaced_step_0000000002", "step_0000000001", ".tmp_x"):
        (run / "checkpoints" / name).symlink_to(outside)
    (run / "summary.json").symlink_to(outside / "step_0000000001" / "mark.json")
    publish(run / "checkpoints", 2, keep=1)
    durable.write_json(run / "summary.json", 1)
    (run / "progress.csv").symlink_to(outside / "step_0000000001" / "mark.json")
    with pytest.raises(OSError):
        durable.Appender(run / "progress.csv")
    assert listing(run / "checkpoints") == ["step_0000000002"]
    assert {path: path.lstat() for path in outside.rglob("*")} == before
