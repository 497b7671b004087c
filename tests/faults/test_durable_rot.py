"""Damaged checkpoints: truncated files, flipped bits and missing files are detected."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seer_runtime import durable

RNG = np.random.default_rng(7)
ROWS = RNG.integers(0, 256, (40, 84), np.uint8)
WEIGHTS = RNG.standard_normal((9, 5), np.float32)
STATE = {"timestep": 2, "rng": {"state": 2**100, "inc": 12345}, "name": "naïve"}
GRAPH = RNG.bytes(300)


def write(folder: Path) -> None:
    durable.write_tensors(folder / "replay.safetensors", {"rows": ROWS, "ends": ROWS[:, 0] > 200}, {"codec": "frames"})
    durable.write_tensors(folder / "agent.safetensors", {"w": WEIGHTS, "b": WEIGHTS[:, 0].astype(np.float16)})
    durable.write_json(folder / "state.json", STATE)
    durable.write_atomic(folder / "encoder.onnx", GRAPH)


def is_as_written(found: durable.Checkpoint) -> bool:
    replay = durable.read_tensors(found.path / "replay.safetensors")
    agent = durable.read_tensors(found.path / "agent.safetensors")
    return (
        np.array_equal(replay["rows"], ROWS)
        and np.array_equal(replay["ends"], ROWS[:, 0] > 200)
        and np.array_equal(agent["w"], WEIGHTS)
        and np.array_equal(agent["b"], WEIGHTS[:, 0].astype(np.float16))
        and found.read_json("state.json") == STATE
        and found.read_bytes("encoder.onnx", 300) == GRAPH
    )


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    durable.publish_checkpoint(tmp_path, 1, write)
    return durable.publish_checkpoint(tmp_path, 2, write)


def expect_the_older(folder: Path, newer: Path) -> None:
    found = durable.newest_checkpoint(folder)
    assert found.manifest["timestep"] == 1
    assert is_as_written(found)
    [(path, reason)] = found.skipped
    assert path == newer
    assert reason
    assert "\n" not in reason
    assert len(reason) <= 301


def boundaries(path: Path) -> set[int]:
    """Return the lengths at which a part of the file ends, and their neighbours."""
    size = path.stat().st_size
    ends = {0, 1, size // 2, size}
    if path.suffix == ".safetensors":
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        ends |= {8, start} | {start + end for entry in header.values() for end in entry["data_offsets"]}
    return {length for end in ends for length in (end - 1, end, end + 1) if 0 <= length < size}


NAMES = ["manifest.json", "state.json", "replay.safetensors", "agent.safetensors", "encoder.onnx"]


@pytest.mark.fault(
    "each file of a checkpoint is truncated at each boundary",
    promise="detected and reported; the older checkpoint loads",
)
@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file_is_detected(
    tmp_path: Path, newer: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    path = newer / name
    whole = path.read_bytes()
    lengths = boundaries(path)
    assert len(lengths) > 5
    record_property("trials", len(lengths))
    for length in lengths:
        os.truncate(path, length)
        # Whitespace at the end of a JSON file has no meaning.
        if name == "manifest.json" and whole[length:].isspace():
            assert is_as_written(durable.newest_checkpoint(tmp_path))
        else:
            expect_the_older(tmp_path, newer)
        path.write_bytes(whole)
    assert durable.newest_checkpoint(tmp_path).path == newer
    with path.open("ab") as stream:
        stream.write(b"x")
    expect_the_older(tmp_path, newer)


def bits(name: str, size: int, header: int, every: int) -> Iterator[int]:
    """Yield one bit in `every` of the manifest and of tensor headers, and far fewer of the rest."""
    proven = size if name == "manifest.json" else header
    yield from range(0, 8 * proven, every)
    yield from range(8 * proven, 8 * size, 31 * every)


@pytest.mark.fault(
    "each file of a checkpoint has one bit flipped", promise="detected and reported; the older checkpoint loads"
)
@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_is_detected(
    tmp_path: Path, newer: Path, name: str, every: int, record_property: Callable[[str, object], None]
) -> None:
    path = newer / name
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little") if path.suffix == ".safetensors" else 0
    flips = list(bits(name, len(whole), header, every))
    record_property("trials", len(flips))
    for bit in flips:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        [(damaged, reason)] = durable.newest_checkpoint(tmp_path).skipped
        assert damaged == newer
        assert "\n" not in reason
    expect_the_older(tmp_path, newer)


@pytest.mark.fault("a file of a checkpoint is missing", promise="detected and reported; the older checkpoint loads")
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_detected(tmp_path: Path, newer: Path, name: str) -> None:
    (newer / name).unlink()
    expect_the_older(tmp_path, newer)


@pytest.mark.fault(
    "one bit of a tensor file's header is flipped, without a manifest",
    promise="rejected, or loaded with unchanged data",
)
def test_a_flipped_bit_in_a_header_never_changes_data(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {"rows": ROWS, "b": WEIGHTS}
    durable.write_tensors(path, arrays)
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    flips = range(0, 8 * start, 3)
    record_property("trials", len(flips))
    for bit in flips:
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            found = durable.read_tensors(path)
        except durable.CorruptFileError:
            refused += 1
        else:
            # A name or a type of the same width may change, but the bytes must not.
            same = {array.tobytes() for array in found.values()} == {array.tobytes() for array in arrays.values()}
            assert same, bit
    assert refused > len(flips) / 2
