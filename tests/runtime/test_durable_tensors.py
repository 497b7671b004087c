"""Tests of tensor files, against the safetensors library and with damaged headers."""

import json
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from seer_runtime import durable
from seer_runtime.durable import CorruptFileError, files
from tests.runtime.durable_faults import listing

Arrays = dict[str, NDArray[Any]]

DTYPES = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
MIB = 2**20

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda text: text != "__metadata__")
tensors = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
tensor_files = st.dictionaries(names, tensors, max_size=5)


def assert_same(found: Arrays, expected: Arrays) -> None:
    # Compare bytes, so that NaN payloads and negative zeros must be equal too.
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in found.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in expected.items()
    }


@settings(max_examples=60)
@given(arrays=tensor_files, metadata=st.none() | st.dictionaries(names, names, max_size=3))
def test_files_are_compatible_with_the_safetensors_library(arrays: Arrays, metadata: dict[str, str] | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.safetensors"), Path(folder, "theirs.safetensors")
        durable.write_tensors(ours, arrays, metadata)
        assert_same(load_file(ours), arrays)
        with safe_open(ours, framework="np") as file:
            assert (file.metadata() or {}) == (metadata or {})

        # Pass None instead of {}: without tensors, empty metadata makes the library write a header it cannot read.
        save_file(arrays, theirs, metadata or None)
        for path in (ours, theirs):
            assert_same(durable.read_tensors(path), arrays)
            with durable.open_tensors(path) as opened:
                assert opened.names == tuple(sorted(arrays))
                assert opened.metadata == (metadata or {})


@settings(max_examples=30)
@given(arrays=tensor_files)
def test_equal_tensors_give_equal_aligned_bytes(arrays: Arrays) -> None:
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


def test_large_array_is_streamed_on_write_and_read(tmp_path: Path) -> None:
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


def test_short_writes_and_reads_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, read = files._write, files._read
    monkeypatch.setattr(files, "_write", lambda fd, data: write(fd, data[:7]))
    monkeypatch.setattr(files, "_read", lambda fd, out, offset: read(fd, out[:5], offset))
    arrays: Arrays = {"a": np.arange(33, dtype=np.int16), "b": np.full((), 2.5)}
    durable.write_tensors(tmp_path / "a", arrays)
    assert_same(load_file(tmp_path / "a"), arrays)
    assert_same(durable.read_tensors(tmp_path / "a"), arrays)


def test_a_large_array_must_be_contiguous(tmp_path: Path) -> None:
    small = np.arange(12, dtype=np.float32).reshape(3, 4).T
    durable.write_tensors(tmp_path / "a", {"small": small})
    assert_same(load_file(tmp_path / "a"), {"small": small})
    large = np.zeros((2, MIB), np.uint8).T
    with pytest.raises(ValueError, match=r"'large' is not C-contiguous and, with 2,097,152 bytes, too large to copy"):
        durable.write_tensors(tmp_path / "b", {"large": large})
    assert listing(tmp_path) == ["a"]


@pytest.mark.parametrize("dtype", [">f4", "c8", "M8[s]", "O", "U3", [("a", "u1")]])
def test_unsupported_dtype_is_rejected_before_the_write(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"tensor 'x' has dtype .*, which a tensor file cannot hold"):
        durable.write_tensors(tmp_path / "a", {"x": np.zeros(2, dtype)})
    assert listing(tmp_path) == []


def test_reserved_name_and_non_text_metadata_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        durable.write_tensors(tmp_path / "a", {"__metadata__": np.zeros(1)})
    with pytest.raises(TypeError, match="metadata"):
        durable.write_tensors(tmp_path / "a", {}, {"steps": 3})  # type: ignore[dict-item]


def test_read_into_rejects_an_array_that_does_not_fit(tmp_path: Path) -> None:
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


@settings(max_examples=60)
@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5))
    ),
    data=st.data(),
)
def test_read_rows_into_reads_the_given_rows(array: NDArray[Any], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(array)))
    count = data.draw(st.integers(0, len(array) - first))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        durable.write_tensors(path, {"x": array, "before": np.ones(3), "zafter": np.ones(1, np.uint8)})
        arena = np.ones((count + 2, *array.shape[1:]), array.dtype)
        with durable.open_tensors(path) as opened:
            opened.read_rows_into("x", first, arena[1 : 1 + count])
    assert arena[1 : 1 + count].tobytes() == array[first : first + count].tobytes()
    assert np.all(arena[[0, -1]] == 1)


def test_read_rows_into_rejects_an_array_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_tensors(path, {"x": np.arange(12, dtype=np.float32).reshape(4, 3), "one": np.ones(())})
    read_only = np.zeros((1, 3), np.float32)
    read_only.flags.writeable = False
    with durable.open_tensors(path) as opened:
        for first, out, reason in (
            (-1, np.zeros((1, 3), np.float32), "do not fit"),
            (4, np.zeros((1, 3), np.float32), "do not fit"),
            (2, np.zeros((3, 3), np.float32), "do not fit"),
            (0, np.zeros((1, 4), np.float32), "do not fit"),
            (0, np.zeros(3, np.float32), "do not fit"),
            (0, np.zeros((), np.float32), "do not fit"),
            (0, np.zeros((1, 3), np.int32), "does not fit"),
            (0, np.zeros((3, 1), np.float32).T, None),
            (0, np.zeros((3, 2), np.float32).T, "C-contiguous"),
            (0, read_only, "writable"),
        ):
            if reason is None:
                opened.read_rows_into("x", first, out)
                continue
            with pytest.raises(ValueError, match=reason):
                opened.read_rows_into("x", first, out)
            assert not out.any()
        with pytest.raises(ValueError, match="do not fit"):
            opened.read_rows_into("one", 0, np.zeros(()))
        with pytest.raises(KeyError):
            opened.read_rows_into("y", 0, np.zeros((1, 3), np.float32))


def test_every_truncation_of_a_tensor_file_is_detected(tmp_path: Path) -> None:
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


def test_truncation_of_an_open_file_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "a"
    durable.write_tensors(path, {"x": np.ones(100)})
    with durable.open_tensors(path) as opened:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(CorruptFileError, match="ends inside tensor 'x'"):
            opened.read_into("x", np.zeros(100))


def entry(dtype: str = "U8", shape: Any = (2,), offsets: Any = (0, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: dict[str, tuple[Any, str]] = {
    "list": ([], "the header is not a JSON object"),
    "metadata of numbers": ({"x": entry(), "__metadata__": {"steps": 3}}, "metadata is not text"),
    "metadata of a list": ({"x": entry(), "__metadata__": ["steps"]}, "metadata is not text"),
    "foreign type": ({"x": entry("BF16", [1])}, "tensor 'x' has the unsupported dtype 'BF16'"),
    "no entry": ({"x": None}, "tensor 'x' has no valid dtype, shape and offsets"),
    "no type": ({"x": {"shape": [2], "data_offsets": [0, 2]}}, "no valid dtype, shape and offsets"),
    "type of another type": ({"x": {**entry(), "dtype": ["U8"]}}, "no valid dtype, shape and offsets"),
    "no shape": ({"x": {"dtype": "U8", "data_offsets": [0, 2]}}, "no valid dtype, shape and offsets"),
    "shape of text": ({"x": entry(shape="2")}, "no valid dtype, shape and offsets"),
    "negative shape": ({"x": entry(shape=[-1, -2])}, "no valid dtype, shape and offsets"),
    "fractional shape": ({"x": entry(shape=[2.0])}, "no valid dtype, shape and offsets"),
    "true shape": ({"x": entry(shape=[2, True])}, "no valid dtype, shape and offsets"),
    "huge number": ({"x": entry(shape=[10**30, 0], offsets=[0, 0]), "y": entry()}, "no valid dtype, shape and offsets"),
    "huge empty": ({"x": entry(shape=[2**62, 2, 0], offsets=[0, 0]), "y": entry()}, "'x' is too large"),
    "huge product": ({"x": entry(shape=[2**62] * 30)}, "'x' is too large"),
    "wrapping product": ({"x": entry(shape=[2**32, 2**32, 2])}, "'x' is too large"),
    "dimensions": ({"x": entry(shape=[1] * 33 + [2])}, "no valid dtype, shape and offsets"),
    "three offsets": ({"x": entry(offsets=[0, 1, 2])}, "no valid dtype, shape and offsets"),
    "negative offset": ({"x": entry(offsets=[-2, 0])}, "no valid dtype, shape and offsets"),
    "backwards": ({"x": entry(offsets=[2, 0])}, "tensor 'x' does not match its offsets"),
    "too small": ({"x": entry(shape=[3])}, "tensor 'x' does not match its offsets"),
    "beyond the end": ({"x": entry(shape=[3], offsets=[0, 3])}, "the tensors end at byte"),
    "data left over": ({"x": entry(shape=[1], offsets=[0, 1])}, "the tensors end at byte"),
    "no tensors, data": ({}, "the tensors end at byte"),
    "gap": ({"x": entry(shape=[1], offsets=[1, 2])}, "gap or an overlap before tensor 'x'"),
    "overlap": ({"x": entry(), "y": entry(shape=[1], offsets=[1, 2])}, "gap or an overlap before tensor 'y'"),
}


def tensor_file(path: Path, header: bytes, data: bytes = b"\0\0") -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


@pytest.mark.parametrize("kind", HEADERS)
def test_header_that_does_not_match_the_file_is_rejected(tmp_path: Path, kind: str) -> None:
    header, reason = HEADERS[kind]
    path = tensor_file(tmp_path / "a", json.dumps(header).encode())
    with pytest.raises(CorruptFileError, match=f"not a safetensors file: .*{reason}"):
        durable.read_tensors(path)
    # The library rejects these files too, except for three kinds.
    if kind not in ("foreign type", "true shape", "dimensions"):
        with pytest.raises((SafetensorError, ValueError, OverflowError)):
            load_file(path)


def test_repeated_tensor_name_is_rejected(tmp_path: Path) -> None:
    one = json.dumps(entry())
    path = tensor_file(tmp_path / "a", f'{{"x": {one}, "\\u0078": {one}}}'.encode())
    with pytest.raises(CorruptFileError, match="a key occurs twice"):
        durable.read_tensors(path)


def test_null_metadata_is_accepted(tmp_path: Path) -> None:
    path = tensor_file(tmp_path / "a", json.dumps({"x": entry(), "__metadata__": None}).encode())
    assert durable.read_tensors(path)["x"].tolist() == [0, 0]


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, durable.HEADER_BYTES + 1, 11])
def test_header_longer_than_the_file_or_the_limit_is_not_read(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(length.to_bytes(8, "little") + b"{}        ")
    if length == durable.HEADER_BYTES + 1:
        os.truncate(path, 2 * length)
    with pytest.raises(CorruptFileError, match=f"invalid header size of {length:,} bytes"):
        durable.read_tensors(path)


def test_header_above_the_limit_is_not_written(tmp_path: Path) -> None:
    metadata = {"x": "y" * durable.HEADER_BYTES}
    with pytest.raises(ValueError, match="a would have a header of"):
        durable.write_tensors(tmp_path / "a", {}, metadata)
    assert listing(tmp_path) == []
