"""Parse the protocol-buffer messages of an ONNX file, strictly and without a copy.

Protocol buffers let a reader skip unknown fields, keep the last of repeated values and encode one number in many ways.
So two readers can see different content in the same bytes. This parser rejects unknown and repeated fields, and
accepts only the shortest form of a number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT_MAX = 255
_VARINT_BYTES_MAX = 9  # numbers below 2^63, because no accepted field is negative
_VARINT, _DELIMITED = 0, 2


class GraphError(ValueError):
    """Raised for an invalid ONNX file. The message is one line."""


@dataclass(frozen=True)
class Field:
    """A field of a message, which occurs from `least` to `most` times.

    `kind` is int, str, memoryview (bytes) or the schema of a nested message.
    """

    name: str
    kind: "type[int] | type[str] | type[memoryview] | Schema"
    least: int = 1
    most: int = 1


Schema = Mapping[int, Field]
Message = dict[str, list[Any]]
"""The values of each field of a schema, by field name, in the order of the file. Nested messages are nested dicts."""


def read_message(view: memoryview, schema: Schema, where: str) -> Message:
    """Parse the message that fills `view`. Fields of bytes are views into it.

    `where` names the message in errors. Raises GraphError for a field that `schema` does not list, for too few or too
    many values of a field, and for truncated or non-canonical bytes.
    """
    message: Message = {field.name: [] for field in schema.values()}
    at = 0
    while at < len(view):
        tag, at = _varint(view, at, where)
        field = schema.get(tag >> 3)
        if field is None:
            raise GraphError(f"{where} has the unsupported field number {tag >> 3}")
        values, place = message[field.name], f"{where}.{field.name}"
        if len(values) == field.most:
            raise GraphError(f"{place} has too many values, the limit is {field.most}")
        if tag & 7 != (_VARINT if field.kind is int else _DELIMITED):
            raise GraphError(f"{place} has the wrong wire type {tag & 7}")
        number, at = _varint(view, at, place)
        if field.kind is int:
            values.append(number)
            continue
        if number > len(view) - at:
            raise GraphError(f"{place} is truncated")
        values.append(_content(view[at : at + number], field, place))
        at += number
    for field in schema.values():
        if len(message[field.name]) < field.least:
            raise GraphError(f"{where} has {len(message[field.name])} values of {field.name}, needs {field.least}")
    return message


def _content(view: memoryview, field: Field, place: str) -> str | memoryview | Message:
    if isinstance(field.kind, Mapping):
        return read_message(view, field.kind, place)
    if field.kind is memoryview:
        return view
    if len(view) > TEXT_MAX:
        raise GraphError(f"{place} has {len(view)} characters, the limit is {TEXT_MAX}")
    text = bytes(view).decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise GraphError(f"{place} is not printable ASCII text")
    return text


def _varint(view: memoryview, at: int, where: str) -> tuple[int, int]:
    """Return the number at offset `at` and the offset of its end."""
    number = 0
    for index, byte in enumerate(view[at : at + _VARINT_BYTES_MAX]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise GraphError(f"{where}: a number is not in its shortest form")
            return number, at + index + 1
    raise GraphError(f"{where}: a number is truncated, negative or not below 2^63")
