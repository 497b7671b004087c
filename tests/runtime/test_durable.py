import contextlib
import errno
import json
import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from seer_runtime import durable
from seer_runtime.durable import CorruptFileError, NoSoundGenerationError

Arrays = dict[str, NDArray[Any]]

STEPS = ("_create", "_write", "_fsync", "_fsync_folder", "_rename", "_make_folder", "_remove")
DTYPES = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
MIB = 2**20

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda text: text != "__metadata__")
tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
tensor_files = st.dictionaries(names, tensors, max_size=5)


def assert_same(found: Arrays, expected: Arrays) -> None:
    # By bytes, so that NaN payloads and negative zeros count.
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in found.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in expected.items()
    }


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Tensors


@settings(max_examples=60, deadline=None)
@given(arrays=tensor_files, metadata=st.none() | st.dictionaries(names, names, max_size=3))
def test_tensors_agree_with_the_library_in_both_directions(arrays: Arrays, metadata: dict[str, str] | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.safetensors"), Path(folder, "theirs.safetensors")
        durable.write_tensors(ours, arrays, metadata)
        assert_same(load_file(ours), arrays)
        with safe_open(ours, framework="np") as file:
            assert (file.metadata() or {}) == (metadata or {})

        # Not {}: without tensors and with empty metadata the library writes a header that it cannot read.
        save_file(arrays, theirs, metadata or None)
        for path in (ours, theirs):
            assert_same(durable.read_tensors(path), arrays)
            with durable.open_tensors(path) as opened:
                assert opened.names == tuple(sorted(arrays))
                assert opened.metadata == (metadata or {})


@settings(max_examples=30, deadline=None)
@given(arrays=tensor_files)
def test_same_tensors_give_the_same_aligned_bytes(arrays: Arrays) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        durable.write_tensors(path, arrays, {"b": "1", "a": "2"})
        first = path.read_bytes()
        durable.write_tensors(path, dict(reversed(arrays.items())), {"a": "2", "b": "1"})
        assert path.read_bytes() == first

        length = int.from_bytes(first[:8], "little")
        header = json.loads(first[8 : 8 + length])
        assert length % 8 == 0
        assert all(header[name]["data_offsets"][0] % array.itemsize == 0 for name, array in arrays.items())


def test_large_array_is_streamed_both_ways(tmp_path: Path) -> None:
    array = np.arange(8 * MIB, dtype=np.uint64).reshape(1024, -1)
    out = np.zeros_like(array)
    path = tmp_path / "large.safetensors"
    tracemalloc.start()
    try:
        durable.write_tensors(path, {"rows": array})
        with durable.open_tensors(path) as opened:
            opened.read_into("rows", out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(out, array)
    assert array.nbytes == 64 * MIB
    assert peak < 4_000_000


def test_short_writes_and_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = durable._write, durable._read
    monkeypatch.setattr(durable, "_write", lambda fd, data: write(fd, data[:7]))
    monkeypatch.setattr(durable, "_read", lambda fd, out, offset: read(fd, out[:5], offset))
    arrays: Arrays = {"a": np.arange(33, dtype=np.int16), "b": np.full((), 2.5)}
    durable.write_tensors(tmp_path / "a", arrays)
    assert_same(load_file(tmp_path / "a"), arrays)
    assert_same(durable.read_tensors(tmp_path / "a"), arrays)


def test_only_a_small_array_may_be_strided(tmp_path: Path) -> None:
    small = np.arange(12, dtype=np.float32).reshape(3, 4).T
    durable.write_tensors(tmp_path / "a", {"small": small})
    assert_same(load_file(tmp_path / "a"), {"small": small})
    large = np.zeros((2, MIB), np.uint8).T
    with pytest.raises(ValueError, match=r"'large' is not C-contiguous and with 2,097,152 bytes too large to copy"):
        durable.write_tensors(tmp_path / "b", {"large": large})
    assert listing(tmp_path) == ["a"]


@pytest.mark.parametrize("dtype", [">f4", "c8", "M8[s]", "O", "U3", [("a", "u1")]])
def test_foreign_dtype_is_refused_before_anything_is_written(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"tensor 'x' has dtype .*, which a tensor file cannot hold"):
        durable.write_tensors(tmp_path / "a", {"x": np.zeros(2, dtype)})
    assert listing(tmp_path) == []


def test_reserved_name_and_foreign_metadata_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        durable.write_tensors(tmp_path / "a", {"__metadata__": np.zeros(1)})
    with pytest.raises(TypeError, match="metadata"):
        durable.write_tensors(tmp_path / "a", {}, {"steps": 3})  # type: ignore[dict-item]


def test_read_into_accepts_only_an_array_that_fits(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_tensors(path, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)})
    arena = np.zeros((4, 3), np.float32)
    read_only = np.zeros((2, 3), np.float32)
    read_only.flags.writeable = False
    with durable.open_tensors(path) as opened:
        opened.read_into("x", arena[1:3])
        for out, reason in (
            (np.zeros((3, 2), np.float32), "does not fit"),
            (np.zeros((2, 3), np.int32), "does not fit"),
            (np.zeros((3, 2), np.float32).T, "C-contiguous"),
            (read_only, "writable"),
        ):
            with pytest.raises(ValueError, match=reason):
                opened.read_into("x", out)
            assert not out.any()
        with pytest.raises(KeyError):
            opened.read_into("y", arena)
    assert arena.tolist() == [[0, 0, 0], [0, 1, 2], [3, 4, 5], [0, 0, 0]]


def test_every_truncation_of_a_tensor_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_tensors(path, {"x": np.arange(6, dtype=np.int16), "y": np.zeros(3, np.uint8)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFileError, match="not a safetensors file") as caught:
            durable.read_tensors(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptFileError):
        durable.read_tensors(path)


def test_file_cut_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_tensors(path, {"x": np.ones(100)})
    with durable.open_tensors(path) as opened:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(CorruptFileError, match="ends inside tensor 'x'"):
            opened.read_into("x", np.zeros(100))


def test_type_of_the_library_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + b"\0\0")
    with pytest.raises(CorruptFileError, match="BF16"):
        durable.read_tensors(tmp_path / "a")


# Single files


@pytest.mark.parametrize(
    ("chunks", "content"),
    [
        (b"", b""),
        (bytearray(b"ab"), b"ab"),
        (np.arange(3, dtype="<u2").data, b"\0\0\1\0\2\0"),
        ([], b""),
        (iter([b"ab", b"", memoryview(b"cd")]), b"abcd"),
    ],
)
def test_write_atomic_writes_all_chunks(tmp_path: Path, chunks: Any, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"something longer than what follows")
    durable.write_atomic(path, chunks)
    assert path.read_bytes() == content
    assert listing(tmp_path) == ["f"]


def test_failing_producer_leaves_the_old_file(tmp_path: Path) -> None:
    def produce() -> Iterator[bytes]:
        yield b"new"
        raise ZeroDivisionError

    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        durable.write_atomic(tmp_path / "f", produce())
    assert (tmp_path / "f").read_bytes() == b"old"
    assert listing(tmp_path) == ["f"]


def test_leftovers_of_killed_writers_are_removed_but_no_others(tmp_path: Path) -> None:
    for name in (".f.0123abcd.tmp", ".f.json.0123abcd.tmp", ".f.tmp", "f.0123abcd.tmp"):
        (tmp_path / name).write_bytes(b"")
    durable.write_atomic(tmp_path / "f", b"")
    assert listing(tmp_path) == [".f.json.0123abcd.tmp", ".f.tmp", "f", "f.0123abcd.tmp"]


def test_json_round_trip_and_form(tmp_path: Path) -> None:
    value = {"b": [1, None, "ü"], "a": 0.1}
    durable.write_json(tmp_path / "f", value)
    assert durable.read_json(tmp_path / "f") == value
    assert (tmp_path / "f").read_text("utf-8") == ('{\n  "b": [\n    1,\n    null,\n    "ü"\n  ],\n  "a": 0.1\n}\n')


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_nan_and_keeps_the_old_file(tmp_path: Path, value: float) -> None:
    durable.write_json(tmp_path / "f", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        durable.write_json(tmp_path / "f", {"loss": [value]})
    assert durable.read_json(tmp_path / "f") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"NaN", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_damaged_json_is_a_corrupt_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CorruptFileError, match="not JSON") as caught:
        durable.read_json(tmp_path / "f")
    assert "\n" not in str(caught.value)


def test_make_folder_makes_parents_and_accepts_what_is_there(tmp_path: Path, faults: "Faults") -> None:
    durable.make_folder(tmp_path / "a" / "b")
    assert faults.trace == ["_make_folder", "_fsync_folder"] * 2
    durable.make_folder(tmp_path / "a" / "b")
    assert len(faults.trace) == 4
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "f")


# Faults


class Faults:
    """Lets the first `allowed` steps pass, fails the next one and, as after a power cut, all that follow."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed = 10**9
        self.for_good = False
        self.trace: list[str] = []
        for step in STEPS:
            monkeypatch.setattr(durable, step, self.guard(step, getattr(durable, step)))

    def guard(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any) -> Any:
            number = len(self.trace)
            self.trace.append(name)
            if number == self.allowed or (self.for_good and number > self.allowed):
                raise OSError(errno.ENOSPC, f"injected into {name}")
            return step(*args)

        return guarded

    def at(self, allowed: int, for_good: bool) -> None:
        self.allowed, self.for_good, self.trace = allowed, for_good, []

    def off(self) -> None:
        self.at(10**9, False)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.mark.parametrize("for_good", [False, True])
def test_write_atomic_survives_a_fault_at_every_step(tmp_path: Path, faults: Faults, for_good: bool) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    durable.write_atomic(path, [b"ne", b"w"])
    steps = faults.trace
    assert steps == ["_create", "_write", "_write", "_fsync", "_rename", "_fsync_folder"]
    for allowed, step in enumerate(steps):
        path.write_bytes(b"old")
        faults.at(allowed, for_good)
        with pytest.raises(OSError, match=f"injected into {step}"):
            durable.write_atomic(path, [b"ne", b"w"])
        assert path.read_bytes() == (b"new" if step == "_fsync_folder" else b"old")
        assert for_good or listing(tmp_path) == ["f"]
        faults.off()
        durable.write_atomic(path, b"newer")
        assert path.read_bytes() == b"newer"
        assert listing(tmp_path) == ["f"]


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("before", [(1,), (2,), (1, 2), (0, 1)])
def test_publishing_survives_a_fault_at_every_step(
    tmp_path: Path, faults: Faults, before: tuple[int, ...], for_good: bool
) -> None:
    # `before` is what is there already: an older generation, one of the same timestep, or two of which one goes.
    def prepare() -> Path:
        faults.off()
        shutil.rmtree(tmp_path / "c", ignore_errors=True)
        for timestep in before:
            publish(tmp_path / "c", timestep, mark="old")
        return tmp_path / "c"

    folder = prepare()
    faults.off()
    publish(folder, 2, mark="new")
    steps = faults.trace
    assert steps.count("_rename") >= 3
    published = len(steps) - 1 - steps[::-1].index("_fsync_folder")
    for allowed in range(len(steps)):
        folder = prepare()
        faults.at(allowed, for_good)
        with pytest.raises(OSError, match=f"injected into {steps[allowed]}"):
            publish(folder, 2, mark="new")

        found = durable.newest_generation(folder)
        mark = durable.read_json(found.path / "mark.json")
        assert found.skipped == ()
        assert (found.manifest["timestep"], mark) == ((2, "new") if allowed >= published else (max(before), "old"))
        assert for_good or allowed > published or not [p for p in listing(folder) if p.startswith(".tmp_")]

        faults.off()
        publish(folder, 2, mark="newer")
        assert durable.read_json(durable.newest_generation(folder).path / "mark.json") == "newer"
        left = sorted({*before, 2})[-2:]
        assert listing(folder) == [durable.generation_name(timestep) for timestep in left]


def test_undo_of_a_failed_swap_that_fails_too_leaves_the_old_one_loadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, 1, mark="old")
    rename = durable._rename

    def refuse(source: Path, target: Path) -> None:
        if target.name == "step_0000000001":
            raise OSError(errno.EIO, "no")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_rename", refuse)
        with pytest.raises(OSError, match="no") as caught:
            publish(tmp_path, 1, mark="new")
    assert "stays at" in caught.value.__notes__[0]
    found = durable.newest_generation(tmp_path)
    assert found.path.name == ".replaced_step_0000000001"
    assert durable.read_json(found.path / "mark.json") == "old"

    publish(tmp_path, 1, mark="newer")
    assert listing(tmp_path) == ["step_0000000001"]


def test_folder_sync_tolerates_only_a_file_system_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, expected in ((errno.EINVAL, contextlib.nullcontext()), (errno.EIO, pytest.raises(OSError))):

        def fail(descriptor: int, number: int = number) -> None:
            raise OSError(number, "fsync")

        monkeypatch.setattr(os, "fsync", fail)
        with expected:
            durable._fsync_folder(tmp_path)


# Generations


def publish(folder: Path, timestep: int, *, mark: str = "", keep: int = 2) -> Path:
    def write(new: Path) -> None:
        durable.write_tensors(new / "x.safetensors", {"x": np.full(4, timestep, np.int64)})
        (new / "mark.json").write_text(json.dumps(mark))

    return durable.publish_generation(folder, timestep, write, keep=keep)


def test_generation_has_its_files_and_a_manifest_of_them(tmp_path: Path) -> None:
    path = publish(tmp_path / "run" / "checkpoints", 12_000)
    assert path == tmp_path / "run" / "checkpoints" / "step_0000012000"
    assert listing(path) == ["manifest.json", "mark.json", "x.safetensors"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["timestep"] == 12_000
    assert manifest["files"]["mark.json"] == {
        "size_bytes": 2,
        # printf '""' | sha256sum
        "sha256": "12ae32cb1ec02d01eda3581b127c1fee3b0dc53572ed6baf239721a03d82e126",
    }
    found = durable.newest_generation(path.parent)
    assert (found.path, found.manifest, found.skipped) == (path, manifest, ())


def test_files_are_on_the_disk_before_the_rename_and_the_manifest_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, fsync_folder, rename = durable._fsync, durable._fsync_folder, durable._rename

    def spy_fsync(descriptor: int) -> None:
        events.append(f"fsync {os.fstat(descriptor).st_ino}")
        fsync(descriptor)

    def spy_folder(path: Path) -> None:
        events.append(f"folder {path.name}")
        fsync_folder(path)

    def spy_rename(source: Path, target: Path) -> None:
        events.append(f"rename {target.name}")
        rename(source, target)

    monkeypatch.setattr(durable, "_fsync", spy_fsync)
    monkeypatch.setattr(durable, "_fsync_folder", spy_folder)
    monkeypatch.setattr(durable, "_rename", spy_rename)
    path = durable.publish_generation(tmp_path, 1, lambda new: (new / "plain").touch())
    inodes = {name: (path / name).stat().st_ino for name in ("plain", "manifest.json")}
    assert events == [
        f"fsync {inodes['plain']}",
        f"fsync {inodes['manifest.json']}",
        "rename manifest.json",
        "folder .tmp_step_0000000001",
        "rename step_0000000001",
        f"folder {tmp_path.name}",
    ]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    for timestep in range(5):
        publish(tmp_path, timestep, keep=keep)
        kept = range(max(0, timestep + 1 - keep), timestep + 1)
        assert listing(tmp_path) == [f"step_{kept_step:010d}" for kept_step in kept]


def test_half_removed_generation_is_out_of_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remove_half(path: Path) -> None:
        (path / "mark.json").unlink()
        raise OSError(errno.EIO, "no")

    publish(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "_remove", remove_half)
        with pytest.raises(OSError, match="no"):
            publish(tmp_path, 2, keep=1)
    assert [name for name in listing(tmp_path) if not name.startswith(".tmp_")] == ["step_0000000002"]
    publish(tmp_path, 3, keep=1)
    assert listing(tmp_path) == ["step_0000000003"]


def test_names_with_more_digits_are_newer(tmp_path: Path) -> None:
    publish(tmp_path, 10**10)
    publish(tmp_path, 10**11)
    publish(tmp_path, 2 * 10**11, keep=2)
    assert listing(tmp_path) == ["step_100000000000", "step_200000000000"]


def test_same_timestep_is_replaced_and_the_older_kept(tmp_path: Path) -> None:
    publish(tmp_path, 1, mark="one")
    publish(tmp_path, 2, mark="two")
    path = publish(tmp_path, 2, mark="again")
    assert durable.read_json(path / "mark.json") == "again"
    assert listing(tmp_path) == ["step_0000000001", "step_0000000002"]


def test_writer_that_went_back_replaces_damaged_newer_ones_and_spares_sound_ones(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    publish(tmp_path, 5)
    publish(tmp_path, 6)
    (tmp_path / "step_0000000005" / "mark.json").unlink()
    publish(tmp_path, 3, keep=1)
    assert listing(tmp_path) == ["step_0000000003", "step_0000000006"]


def test_leftovers_of_killed_writers_go_before_the_writing(tmp_path: Path) -> None:
    (tmp_path / ".tmp_step_0000000007").mkdir()
    (tmp_path / ".tmp_step_0000000007" / "x").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    seen: list[list[str]] = []
    durable.publish_generation(tmp_path, 8, lambda new: seen.append(listing(tmp_path)))
    assert seen == [[".tmp_step_0000000008", "notes.txt"]]
    assert listing(tmp_path) == ["notes.txt", "step_0000000008"]


def test_failing_writer_publishes_nothing(tmp_path: Path) -> None:
    def write(new: Path) -> None:
        (new / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    publish(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt):
        durable.publish_generation(tmp_path, 2, write)
    assert listing(tmp_path) == ["step_0000000001"]


@pytest.mark.parametrize(
    "write",
    [
        lambda new: (new / "folder").mkdir(),
        lambda new: (new / "link").symlink_to("/dev/null"),
        lambda new: (new / "manifest.json").touch(),
        lambda new: (new / "a\\b").touch(),
        lambda new: os.mkfifo(new / "pipe"),
    ],
)
def test_only_plain_files_are_published(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(ValueError, match="plain files only"):
        durable.publish_generation(tmp_path, 1, write)
    assert listing(tmp_path) == []


@pytest.mark.parametrize(("timestep", "keep"), [(-1, 2), (0, 0)])
def test_publishing_refuses_impossible_numbers(tmp_path: Path, timestep: int, keep: int) -> None:
    with pytest.raises(ValueError, match="at least 0 and 1"):
        publish(tmp_path / "c", timestep, keep=keep)
    assert listing(tmp_path) == []


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def edit_manifest(**changes: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps(manifest | changes))

    return edit


def add_file(name: str) -> Callable[[Path], None]:
    def add(path: Path) -> None:
        files = json.loads((path / "manifest.json").read_text())["files"]
        edit_manifest(files=files | {name: files["mark.json"]})(path)

    return add


def link_out(path: Path) -> None:
    (path / "mark.json").rename(path.parent / "elsewhere")
    (path / "mark.json").symlink_to("../elsewhere")


def link_whole(path: Path) -> None:
    path.rename(path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def empty_list(path: Path) -> None:
    (path / "manifest.json").write_text("[]")


def file_instead(path: Path) -> None:
    shutil.rmtree(path)
    path.touch()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (lambda p: os.truncate(p / "x.safetensors", 10), "'x.safetensors' has 10 bytes instead of"),
    "flipped": (lambda p: flip_bit(p / "x.safetensors"), "'x.safetensors' has other bytes"),
    "missing": (lambda p: (p / "mark.json").unlink(), "'mark.json' is missing"),
    "no manifest": (lambda p: (p / "manifest.json").unlink(), "no manifest.json"),
    "cut manifest": (lambda p: os.truncate(p / "manifest.json", 20), "manifest.json is not JSON"),
    "empty manifest": (lambda p: os.truncate(p / "manifest.json", 0), "manifest.json is not JSON"),
    "list manifest": (empty_list, "lists no files"),
    "no files": (edit_manifest(files=None), "lists no files"),
    "bad record": (edit_manifest(files={"mark.json": {"size_bytes": 2}}), "no size and SHA-256 of 'mark.json'"),
    "true size": (
        edit_manifest(files={"mark.json": {"size_bytes": True, "sha256": "0" * 64}}),
        "no size and SHA-256 of 'mark.json'",
    ),
    "other version": (edit_manifest(format_version=2), "has format 2, this release reads 1"),
    "other timestep": (edit_manifest(timestep=7), "has timestep 7"),
    "no timestep": (edit_manifest(timestep=None), "has timestep None"),
    "path": (add_file("../step_0000000001/mark.json"), "is not a plain file name"),
    "absolute": (add_file("/etc/hostname"), "is not a plain file name"),
    "parent": (add_file(".."), "'..', which is not a plain file name"),
    "backslash": (add_file("..\\x"), "is not a plain file name"),
    "link": (link_out, "'mark.json' is a symbolic link"),
    "unlisted link": (lambda p: (p / "extra").symlink_to("mark.json"), "'extra' is a symbolic link"),
    "whole link": (link_whole, "not a folder"),
    "a file": (file_instead, "not a folder"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_generation_is_skipped_for_the_older(tmp_path: Path, kind: str) -> None:
    damage, reason = DAMAGE[kind]
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    damage(newer)
    found = durable.newest_generation(tmp_path)
    assert found.path == older
    [(path, why)] = found.skipped
    assert path == newer
    assert reason in why
    assert "\n" not in why
    with pytest.raises(CorruptFileError) as caught:
        durable.check_generation(newer)
    assert str(caught.value) == f"{newer}: {why}"


def test_unreadable_generation_is_skipped_with_the_system_s_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = publish(tmp_path, 1), publish(tmp_path, 2)
    read_json = durable.read_json

    def fail(path: Path) -> Any:
        if path.parent == newer:
            raise OSError(errno.EIO, "Input/output error")
        return read_json(path)

    monkeypatch.setattr(durable, "read_json", fail)
    found = durable.newest_generation(tmp_path)
    assert found.path == older
    assert found.skipped == ((newer, "cannot be read: [Errno 5] Input/output error"),)


def test_files_that_the_manifest_does_not_name_do_no_harm(tmp_path: Path) -> None:
    path = publish(tmp_path, 1)
    (path / ".DS_Store").touch()
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_00000000002").mkdir()
    found = durable.newest_generation(tmp_path)
    assert (found.path, found.skipped) == (path, ())


def test_no_sound_generation_says_why_in_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(NoSoundGenerationError) as empty:
            durable.newest_generation(folder)
        assert str(empty.value) == f"{folder}: no checkpoint was published here"
    for timestep in (1, 2):
        (publish(tmp_path, timestep) / "manifest.json").unlink()
    with pytest.raises(NoSoundGenerationError) as caught:
        durable.newest_generation(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no sound checkpoint (step_0000000002: no manifest.json; step_0000000001: no manifest.json)"
    )
    assert [path.name for path, _ in caught.value.skipped] == ["step_0000000002", "step_0000000001"]
