"""Tensor files in safetensors format: streamed to the disk and read one tensor at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from seer_runtime.durable import files
from seer_runtime.durable.files import BytesLike, CorruptFileError

PIECE_BYTES = 2**20

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


def write_tensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write `arrays` to `path` in safetensors format, through `write_atomic`; the same input gives the same bytes.

    Arrays go to the disk in pieces of `PIECE_BYTES`, from where they lie; only one that is not C-contiguous is
    copied, and only up to that size. Raises ValueError for a larger one of those, for a reserved name, and for a
    dtype other than bool, (u)int8 to 64 and float16 to 64 in little-endian order; TypeError where metadata is not
    text; OSError.
    """
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise TypeError("metadata of a tensor file is text, keys and values")
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
    files.write_atomic(path, _tensor_chunks(encoded, [array for _, array in ordered]))


def read_tensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> dict[str, NDArray[Any]]:
    """The tensors of `path` whose names begin with one of `prefixes`, each in memory of its own.

    Raises CorruptFileError and OSError.
    """
    with open_tensors(path) as tensors:
        names = [name for name in tensors.names if name.startswith(prefixes)]
        arrays = {name: np.empty(tensors.shapes[name], tensors.dtypes[name]) for name in names}
        for name, array in arrays.items():
            tensors.read_into(name, array)
    return arrays


@contextmanager
def open_tensors(path: Path) -> Iterator["TensorFile"]:
    """Open `path` to read one tensor at a time. Raises CorruptFileError and OSError."""
    with path.open("rb", buffering=0) as file:
        try:
            # The library maps the file and proves that the tensors fill it exactly; no tensor is read.
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise CorruptFileError(path, f"not a safetensors file: {files.one_line(error)}") from error
        length_bytes = int.from_bytes(file.read(8), "little")
        yield TensorFile(path, file.fileno(), json.loads(file.read(length_bytes)), 8 + length_bytes)


class TensorFile:
    """An open tensor file: `names`, `shapes`, `dtypes` and `metadata` are known, the data is still on the disk."""

    def __init__(self, path: Path, descriptor: int, header: dict[str, Any], data_start_bytes: int) -> None:
        self.path = path
        self.metadata: dict[str, str] = header.pop(_METADATA, None) or {}
        unknown = {entry["dtype"] for entry in header.values()} - _DTYPES.keys()
        if unknown:
            raise CorruptFileError(path, f"tensors of type {', '.join(sorted(unknown))} are not ours")
        self.names: tuple[str, ...] = tuple(sorted(header))
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(header[name]["shape"]) for name in header}
        self.dtypes: dict[str, np.dtype[Any]] = {name: _DTYPES[header[name]["dtype"]] for name in header}
        self._offsets = {name: data_start_bytes + header[name]["data_offsets"][0] for name in header}
        self._descriptor = descriptor

    def read_into(self, name: str, out: NDArray[Any]) -> None:
        """Fill `out` with tensor `name` straight from the file.

        `out` is C-contiguous and writable, with the tensor's shape and dtype; anything else is a ValueError. Raises
        KeyError for an unknown name, CorruptFileError where the file ends early, OSError.
        """
        offset_bytes = self._offsets[name]
        if out.shape != self.shapes[name] or out.dtype != self.dtypes[name]:
            raise ValueError(
                f"{name!r} is {self.dtypes[name]} {self.shapes[name]}; it does not fit {out.dtype} {out.shape}"
            )
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError(f"{name!r} can be read into a C-contiguous, writable array only")
        view = _bytes_of(out)
        while view:
            count = files._read(self._descriptor, view, offset_bytes)
            if count == 0:
                raise CorruptFileError(self.path, f"ends inside tensor {name!r}")
            view = view[count:]
            offset_bytes += count


def _check_writable(name: str, array: NDArray[Any]) -> None:
    if name == _METADATA:
        raise ValueError(f"a tensor cannot be named {_METADATA}: the format reserves it")
    if array.dtype not in _CODES:
        raise ValueError(f"tensor {name!r} has dtype {array.dtype.str}, which a tensor file cannot hold")
    if not array.flags.c_contiguous and array.nbytes > PIECE_BYTES:
        raise ValueError(f"tensor {name!r} is not C-contiguous and with {array.nbytes:,} bytes too large to copy")


def _tensor_chunks(header: bytes, arrays: Iterable[NDArray[Any]]) -> Iterator[BytesLike]:
    yield len(header).to_bytes(8, "little") + header
    for array in arrays:
        view = _bytes_of(array if array.flags.c_contiguous else array.copy(order="C"))
        for start_bytes in range(0, len(view), PIECE_BYTES):
            yield view[start_bytes : start_bytes + PIECE_BYTES]


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data
