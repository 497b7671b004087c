"""Tensor files in safetensors format, written as a stream and read one tensor or some rows at a time.

The header and the tensors are read from the same descriptor, so the file cannot be replaced between the check and the
read. Nothing is memory-mapped, so truncation during a read raises an exception instead of a signal.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.durable import files
from seer_runtime.durable.files import BytesLike, CorruptFileError

PIECE_BYTES = 2**20
HEADER_BYTES = files.JSON_BYTES

_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_METADATA = "__metadata__"
_MAX_DIMENSIONS = 32  # numpy's limit
_MAX_BYTES = 2**63 - 1


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write `arrays` to `path` in safetensors format, through `write_atomic`. Equal input gives equal bytes.

    Arrays are written from their own memory in pieces of `PIECE_BYTES`. An array that is not C-contiguous is copied,
    which is allowed only up to `PIECE_BYTES`. Dtypes are bool, (u)int8 to (u)int64 and float16 to float64, in
    little-endian order.

    Raises ValueError for a larger non-contiguous array, another dtype, a reserved name or a header of more than
    `HEADER_BYTES`, TypeError if the metadata is not text, and OSError.
    """
    files.write_atomic(path, tensor_pieces(path.name, arrays, metadata))


def tensor_pieces(
    title: str, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None
) -> Iterator[BytesLike]:
    """Return the bytes of a tensor file as an iterator over pieces. `title` names the file in messages.

    Raises ValueError and TypeError for the reasons of `write_tensors`.
    """
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise TypeError("the metadata of a tensor file must map text to text")
        header[_METADATA] = dict(sorted(metadata.items()))
    end_bytes = 0
    for name, array in ordered:
        _check_writable(name, array)
        start_bytes, end_bytes = end_bytes, end_bytes + array.nbytes
        header[name] = {
            "dtype": _CODES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start_bytes, end_bytes],
        }
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > HEADER_BYTES:
        raise ValueError(f"{title} would have a header of {len(encoded):,} bytes, the limit is {HEADER_BYTES:,}")
    return _tensor_chunks(encoded, [array for _, array in ordered])


def read_tensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, NDArray[Any]]:
    """Return the tensors of file `path` whose names start with one of `prefixes`, as new arrays.

    Raises CorruptFileError for an invalid file, and OSError.
    """
    with open_tensors(path) as tensors:
        names = [name for name in tensors.names if name.startswith(prefixes)]
        arrays = {name: np.empty(tensors.shapes[name], tensors.dtypes[name]) for name in names}
        for name, array in arrays.items():
            tensors.read_into(name, array)
    return arrays


@contextmanager
def open_tensors(path: Path) -> Iterator["TensorFile"]:
    """Context manager: open `path` to read one tensor at a time, after a check that the tensors fill the file exactly.

    Raises CorruptFileError for an invalid file, and OSError.
    """
    with files.open_regular(path) as descriptor:
        yield tensors_within(path, descriptor, 0, os.fstat(descriptor).st_size)


def tensors_within(path: Path, descriptor: int, start_bytes: int, size_bytes: int) -> "TensorFile":
    """Return the tensor file in bytes `[start_bytes, start_bytes + size_bytes)` of an open file.

    It is valid while the file is open. `path` is used in messages. Raises as `open_tensors`.
    """
    try:
        return _parse(path, descriptor, start_bytes, size_bytes)
    except CorruptFileError as error:
        raise CorruptFileError(path, f"not a safetensors file: {error.reason}") from error


@dataclass(frozen=True)
class _Place:
    """Dtype, shape and position of a tensor in its file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start_bytes: int
    end_bytes: int


class TensorFile:
    """An open tensor file. `names`, `shapes`, `dtypes` and `metadata` are loaded; the data is still on the disk."""

    def __init__(self, path: Path, descriptor: int, places: Mapping[str, _Place], metadata: dict[str, str]) -> None:
        self.path = path
        self.metadata = metadata
        self.names: tuple[str, ...] = tuple(sorted(places))
        self.shapes: dict[str, tuple[int, ...]] = {name: place.shape for name, place in places.items()}
        self.dtypes: dict[str, np.dtype[Any]] = {name: place.dtype for name, place in places.items()}
        self._places = places
        self._descriptor = descriptor

    def read_into(self, name: str, out: NDArray[Any]) -> None:
        """Read tensor `name` from the file into `out`, without a copy.

        Raises ValueError unless `out` is C-contiguous and writable, with the tensor's shape and dtype. Raises KeyError
        for an unknown name, CorruptFileError if the file ends early, and OSError.
        """
        if out.shape != self.shapes[name]:
            raise ValueError(f"{name!r} is {self.dtypes[name]} {self.shapes[name]}, which does not fit {out.shape}")
        self._fill(name, 0, out)

    def read_rows_into(self, name: str, first_row: int, out: NDArray[Any]) -> None:
        """Read `len(out)` rows of tensor `name`, from `first_row` on, into `out`, without a copy.

        A row is a slice along the first axis. Raises ValueError unless `out` is C-contiguous and writable, with shape
        `[rows, *shape[1:]]` and the tensor's dtype, and the tensor has that many rows. Raises the other errors of
        `read_into`.
        """
        shape = self.shapes[name]
        if not shape or out.ndim == 0 or out.shape[1:] != shape[1:] or not 0 <= first_row <= shape[0] - len(out):
            raise ValueError(
                f"{name!r} is {self.dtypes[name]} {shape}, whose rows from {first_row} on do not fit {out.shape}"
            )
        row_bytes = math.prod(shape[1:]) * self.dtypes[name].itemsize
        self._fill(name, first_row * row_bytes, out)

    def _fill(self, name: str, skip_bytes: int, out: NDArray[Any]) -> None:
        place = self._places[name]
        if out.dtype != place.dtype:
            raise ValueError(f"{name!r} is {place.dtype} {place.shape}, which does not fit {out.dtype}")
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError(f"{name!r} can only be read into a C-contiguous, writable array")
        offset_bytes = place.start_bytes + skip_bytes
        view = _bytes_of(out)
        while view:
            count = files._read(self._descriptor, view, offset_bytes)
            if count == 0:
                raise CorruptFileError(self.path, f"ends inside tensor {name!r}")
            view = view[count:]
            offset_bytes += count


def _parse(path: Path, descriptor: int, start_bytes: int, size_bytes: int) -> TensorFile:
    """Read and check the header of the tensor file in that range of the open file."""
    if size_bytes < 8:
        raise CorruptFileError(path, f"{size_bytes} bytes are too short for a header")
    length_bytes = int.from_bytes(files.read_range(path, descriptor, 8, start_bytes), "little")
    if length_bytes > min(HEADER_BYTES, size_bytes - 8):
        raise CorruptFileError(path, f"invalid header size of {length_bytes:,} bytes in a file of {size_bytes:,}")
    header = files.parse_json(path, files.read_range(path, descriptor, length_bytes, start_bytes + 8))
    if not isinstance(header, dict):
        raise CorruptFileError(path, "the header is not a JSON object")
    metadata = header.pop(_METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise CorruptFileError(path, "the metadata is not text")
    end_bytes = start_bytes + 8 + length_bytes
    places = {name: _place(path, name, entry, end_bytes) for name, entry in header.items()}
    for name, place in sorted(places.items(), key=lambda item: (item[1].start_bytes, item[1].end_bytes)):
        if place.start_bytes != end_bytes:
            raise CorruptFileError(path, f"there is a gap or an overlap before tensor {name!r}")
        end_bytes = place.end_bytes
    if end_bytes != start_bytes + size_bytes:
        raise CorruptFileError(
            path, f"the tensors end at byte {end_bytes - start_bytes:,}, the file at byte {size_bytes:,}"
        )
    return TensorFile(path, descriptor, places, metadata)


def _place(path: Path, name: str, entry: object, data_start_bytes: int) -> _Place:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [start_bytes, end_bytes]} if (
            _are_counts([*shape, start_bytes, end_bytes]) and len(shape) <= _MAX_DIMENSIONS
        ):
            pass
        case _:
            raise CorruptFileError(path, f"tensor {name!r} has no valid dtype, shape and offsets")
    if code not in _DTYPES:
        raise CorruptFileError(path, f"tensor {name!r} has the unsupported dtype {code!r}")
    dtype = _DTYPES[code]
    # Even if one dimension is 0, numpy rejects an array if the product of the others is too large.
    if math.prod(size for size in shape if size) * dtype.itemsize > _MAX_BYTES:
        raise CorruptFileError(path, f"tensor {name!r} is too large")
    if math.prod(shape) * dtype.itemsize != end_bytes - start_bytes:
        raise CorruptFileError(path, f"the shape of tensor {name!r} does not match its offsets")
    return _Place(dtype, tuple(shape), data_start_bytes + start_bytes, data_start_bytes + end_bytes)


def _are_counts(values: list[object]) -> bool:
    return all(type(value) is int and 0 <= value <= _MAX_BYTES for value in values)


def _check_writable(name: str, array: NDArray[Any]) -> None:
    if name == _METADATA:
        raise ValueError(f"a tensor cannot be named {_METADATA}, because the format reserves this name")
    if array.dtype not in _CODES:
        raise ValueError(f"tensor {name!r} has dtype {array.dtype.str}, which a tensor file cannot hold")
    if not array.flags.c_contiguous and array.nbytes > PIECE_BYTES:
        raise ValueError(f"tensor {name!r} is not C-contiguous and, with {array.nbytes:,} bytes, too large to copy")


def _tensor_chunks(header: bytes, arrays: Iterable[NDArray[Any]]) -> Iterator[BytesLike]:
    yield len(header).to_bytes(8, "little") + header
    for array in arrays:
        view = _bytes_of(array if array.flags.c_contiguous else array.copy(order="C"))
        for start_bytes in range(0, len(view), PIECE_BYTES):
            yield view[start_bytes : start_bytes + PIECE_BYTES]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """Return a view of the bytes of a C-contiguous array."""
    return array.reshape(-1).view(np.uint8).data
