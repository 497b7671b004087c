"""Damaged and untrusted bundles, given to every command that reads one."""

import gzip
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from seer_edge.cli import commands as cli
from seer_runtime import durable
from seer_runtime.durable import container
from seer_runtime.policy import bundle
from seer_runtime.policy.bundle import open_bundle
from seer_runtime.system.process import rss_peak_bytes
from tests.end_to_end.short_presets import GAME, Run, runner, use_short_presets
from tests.faults import runs
from tests.runtime.bundles import forged, members, record

Record = Callable[[str, object], None]
SECONDS = 30
MIB = 2**20
GROWTH_BYTES = 100_000_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a short run, with all optional members."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        use_short_presets(patch)
        extras = ("--with", "learner", "--with", "replay")
        run, path = str(folder / "run"), str(folder / "policy.seer")
        for words in (("train", "--env", GAME, "--run-dir", run), ("export", run, "-o", path, *extras)):
            patch.setattr(sys, "argv", ["seer-edge", *words])
            assert cli.main() == 0
    return folder / "policy.seer"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    use_short_presets(monkeypatch)
    return runner(monkeypatch, capsys)


def commands(path: Path) -> list[tuple[str | Path, ...]]:
    """Return each command that reads a bundle."""
    return [("act", path), ("eval", path), train_from(path)]


def train_from(path: Path) -> tuple[str | Path, ...]:
    return ("train", "--env", GAME, "--from", path, "--run-dir", path.parent / "run")


def expect_rejection(run: Run, path: Path, *words: str | Path) -> None:
    before = sorted(path.parent.iterdir())
    status, out, error = run(*words)
    assert (status, out, error.count("\n")) == (2, "", 1), error
    assert str(path) in error
    assert sorted(path.parent.iterdir()) == before


# --- damage --------------------------------------------------------------------------------------------------


@pytest.mark.fault(
    "a bundle truncated at the end of each member, and one byte before and after it",
    promise="`act`, `eval` and `train --from` reject it in one line; nothing is written",
)
def test_truncated_bundles_are_rejected(run: Run, sound: Path, tmp_path: Path, record_property: Record) -> None:
    whole, path = sound.read_bytes(), tmp_path / "cut.seer"
    with open_bundle(sound) as opened:
        starts = [member.start_bytes for member in opened.container.members.values()]
    ends = {0, 8, 12, 16, 48, *starts, len(whole)}
    lengths = sorted({length for end in ends for length in (end - 1, end, end + 1) if 0 <= length < len(whole)})
    assert len(lengths) > 25
    record_property("trials", len(lengths))
    for length in lengths:
        path.write_bytes(whole[:length])
        for words in commands(path):
            expect_rejection(run, path, *words)


@pytest.mark.fault(
    "one bit of a bundle flipped", promise="`act`, `eval` and `train --from` reject it in one line; nothing is written"
)
@pytest.mark.parametrize("count", [40, pytest.param(2_000, marks=pytest.mark.faults)])
def test_bundles_with_a_flipped_bit_are_rejected(
    count: int, run: Run, sound: Path, tmp_path: Path, record_property: Record
) -> None:
    """As many bits of the header as of the members. `tests/runtime/test_bundle.py` tests every byte."""
    whole, path = sound.read_bytes(), tmp_path / "flipped.seer"
    with open_bundle(sound) as opened:
        head = min(member.start_bytes for member in opened.container.members.values())
    places = [*range(0, 8 * head, 8 * head // count), *range(8 * head, 8 * len(whole), 8 * len(whole) // count)]
    record_property("trials", len(places))
    for number, bit in enumerate(places):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        expect_rejection(run, path, *commands(path)[number % 3])


# --- untrusted bundles ---------------------------------------------------------------------------------------


@pytest.mark.fault(
    "members of a bundle swapped or from another policy, with valid hashes",
    promise="each command that reads them rejects the bundle in one line; nothing is written",
)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (bundle.ENCODER, bundle.HEAD),
        (bundle.ENCODER, bundle.LEARNER),
        (bundle.HEAD, bundle.REPLAY),
        (bundle.LEARNER, bundle.REPLAY),
        (bundle.REPLAY, bundle.NEWEST),
        (bundle.LEARNER, bundle.NEWEST),
        (bundle.ENCODER, None),
        (bundle.HEAD, None),
    ],
)
def test_swapped_members_are_rejected(one: str, other: str | None, run: Run, sound: Path, tmp_path: Path) -> None:
    with open_bundle(sound) as opened:
        about, parts = opened.about, {name: [opened.read(name)] for name in opened.container.members}
    if other is None:
        parts[one] = members()[one]
    else:
        parts[one], parts[other] = parts[other], parts[one]
    path = tmp_path / "swapped.seer"
    durable.write_container(path, about, parts)
    if (one, other) != (bundle.HEAD, None):  # continued learning does not read the head's graph
        expect_rejection(run, path, *train_from(path), "--take", "agent")
    if {one, other} & {bundle.ENCODER, bundle.HEAD}:  # acting reads only these members
        for words in commands(path)[:2]:
            expect_rejection(run, path, *words)


Edit = Callable[[dict[str, Any]], object]


def without(name: str) -> Edit:
    return lambda arrays: arrays.pop(name)


def cast(name: str, dtype: str) -> Edit:
    return lambda arrays: arrays.update({name: arrays[name].astype(dtype)})


def fill(name: str, value: float) -> Edit:
    return lambda arrays: arrays[name].fill(value)


def shorter(name: str) -> Edit:
    return lambda arrays: arrays.update({name: arrays[name][:-1]})


WEIGHT, MOMENT = "head.hidden.weight", "optimizer.second.head.hidden.bias"


@pytest.mark.fault(
    "a learner or replay with valid hashes but wrong arrays, sizes, types or values",
    promise="`train --from` rejects it in one line; nothing is written",
)
@pytest.mark.parametrize(
    ("member", "edit", "message"),
    [
        (bundle.LEARNER, without(MOMENT), f"{MOMENT} differ"),
        (bundle.LEARNER, shorter(MOMENT), f"{MOMENT} differ"),
        (bundle.LEARNER, cast(WEIGHT, "float64"), f"{WEIGHT} differ"),
        (bundle.LEARNER, fill(WEIGHT, np.nan), "not finite"),
        (bundle.LEARNER, fill(MOMENT, np.inf), "not finite"),
        (bundle.LEARNER, without("generator"), "generator differ"),
        (bundle.LEARNER, fill("generator", 7), "not the state of a random stream"),
        (bundle.REPLAY, without("priorities"), "its tensors are"),
        (bundle.REPLAY, shorter("reward"), "its tensor reward is"),
        (bundle.REPLAY, cast("rows", "float32"), "rows"),
        (bundle.REPLAY, fill("reward", np.nan), "invalid rewards or flags"),
        (bundle.REPLAY, fill("flags", 255), "invalid rewards or flags"),
        (bundle.REPLAY, fill("flags", 8), "invalid rewards or flags"),  # a scene continues although no episode ended
        (bundle.REPLAY, fill("action", 3), "actions outside the environment's 3 actions"),
        (bundle.REPLAY, fill("action", -1), "actions outside the environment's 3 actions"),
        (bundle.REPLAY, fill("priorities", -1), "priorities must be finite"),
        (bundle.NEWEST, shorter("latents"), "expected an observation of float32 (1, 1, 64)"),
        (bundle.NEWEST, without("latents"), "latents"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_learner_or_replay_is_rejected_before_anything_is_written(
    member: str, edit: Edit, message: str, run: Run, sound: Path, tmp_path: Path
) -> None:
    """The head's sizes are valid in all cases."""
    with open_bundle(sound) as opened:
        about, parts = opened.about, {name: [opened.read(name)] for name in opened.container.members}
        arrays = opened.arrays(member)
    edit(arrays)
    path = tmp_path / "edited.seer"
    durable.write_container(path, about, {**parts, member: list(durable.tensor_pieces(member, arrays))})
    before = sorted(tmp_path.iterdir())
    status, out, error = run(*train_from(path))
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"--from {path}: " in error
    assert message in error
    assert sorted(tmp_path.iterdir()) == before


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("policy", bytes(120 * MIB))


def data(content: bytes, size_bytes: int | None = None) -> Callable[[Path], None]:
    """Write a file of `content`, extended with a hole to `size_bytes`."""

    def write(path: Path) -> None:
        path.write_bytes(content)
        if size_bytes is not None:
            os.truncate(path, size_bytes)

    return write


def claims(member: str, size_bytes: int) -> bytes:
    return forged({"about": {}, "members": [record(member, b"", size_bytes=size_bytes)]})


def many_members() -> bytes:
    return forged({"about": {}, "members": [record(f"{number:x}", b"") for number in range(9_000)]})


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a zip bomb": zipped,
    "a gzip bomb": data(gzip.compress(bytes(120 * MIB), 1)),
    "a hole of 1,000 MiB": data(b"SEEREDGE", 1000 * MIB),
    "a manifest as long as can be said": data(forged({}, length=2**32 - 1), 5000 * MIB),
    "a manifest of 1,000 MiB": data(forged({}, length=1000 * MIB), 1001 * MIB),
    "a manifest of spaces": data(forged(b" " * MIB)),
    "a deep manifest": data(forged(b"[" * 10**6)),
    "a manifest of empty lists": data(forged(b"[" + b"[]," * 340_000 + b"[]]")),
    "long numbers": data(forged(b"[" + b",".join([b"9" * 4300] * 240) + b"]")),
    "many members": data(many_members()),
    "an encoder of 64 MiB and a byte": data(claims(bundle.ENCODER, 64 * MIB + 1), 66 * MIB),
    "a replay beyond the end": data(claims(bundle.REPLAY, 2**39)),
    "a size that no disk has": data(claims(bundle.REPLAY, 2**80)),
    "a name that leads out": data(claims("../../policy", 0)),
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
}

SAMPLE = (
    "a zip bomb",
    "a hole of 1,000 MiB",
    "a manifest of 1,000 MiB",
    "a manifest of empty lists",
    "a size that no disk has",
    "a name that leads out",
    "a link to a device",
    "a pipe",
)
"""The kinds that `make test` tries; `make test-faults` tries all."""


def measured(words: list[tuple[str | Path, ...]]) -> int:
    """Run the commands; print their exit statuses and the growth of peak RSS in bytes."""
    before = rss_peak_bytes()
    statuses = [runs.command(*command) for command in words]
    print(*statuses, rss_peak_bytes() - before)
    return 0


@pytest.mark.fault(
    "a hostile file in place of a bundle",
    promise="each command rejects it in one line; no code runs, no hang, under 100 MB; nothing is written",
)
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in SAMPLE else pytest.mark.faults) for kind in HOSTILE]
)
def test_hostile_files_are_rejected(kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path / "hostile.seer"
    HOSTILE[kind](path)
    before = sorted(tmp_path.iterdir())
    log = tmp_path_factory.mktemp("log") / "log"
    assert runs.start(log, measured, commands(path)).join(SECONDS) == 0
    *lines, figures = log.read_text().splitlines()
    *statuses, grown_bytes = map(int, figures.split())
    assert statuses == [2, 2, 2], lines
    assert len(lines) == 3
    assert all(path.name in line for line in lines)
    assert grown_bytes < GROWTH_BYTES
    assert sorted(tmp_path.iterdir()) == before


def test_the_memory_check_detects_a_reader_that_loads_the_whole_file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path / "hostile.seer"
    data(b"", 200 * MIB)(path)
    log = tmp_path_factory.mktemp("log") / "log"
    assert runs.start(log, measured, commands(path), prepare=lax).join(SECONDS) == 0
    assert int(log.read_text().splitlines()[-1].split()[-1]) > GROWTH_BYTES


def lax(send: Callable[[object], None]) -> None:
    """Replace the reader of manifests by one that reads the whole file."""

    def manifest(path: Path, descriptor: int, size_bytes: int) -> NoReturn:
        raise durable.CorruptFileError(path, str(len(path.read_bytes())))

    container._manifest = manifest
