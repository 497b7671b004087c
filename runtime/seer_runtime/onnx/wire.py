"""The bytes of an ONNX file as protocol-buffer messages, read strictly and without a copy.

The format lets a reader skip what it does not know, take the last of two values and write one number in many ways, so
two readers can see two files in the same bytes. Here a field is expected or it is an error, and a number has one form.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT_MAX = 255
_VARINT_BYTES_MAX = 9  # below 2^63: nothing that we read is negative
_VARINT, _DELIMITED = 0, 2


class GraphError(ValueError):
    """An ONNX file that is none of ours; the message is one line."""


@dataclass(frozen=True)
class Field:
    """A field of a message: `kind` is int, str, memoryview (bytes) or the schema of a message in it."""

    name: str
    kind: "type[int] | type[str] | type[memoryview] | Schema"
    least: int = 1
    most: int = 1


Schema = Mapping[int, Field]
Message = dict[str, list[Any]]
"""The values of each field of the schema by its name, in the file's order; messages are nested."""


def read_message(view: memoryview, schema: Schema, where: str) -> Message:
    """The message that fills `view`; bytes fields are views into it.

    Raises GraphError, in which the message is called `where`, for whatever `schema` does not list, for too few or too
    many of a field, and for bytes that are cut short or have another form than the only one that we read.
    """
    message: Message = {field.name: [] for field in schema.values()}
    at = 0
    while at < len(view):
        tag, at = _varint(view, at, where)
        field = schema.get(tag >> 3)
        if field is None:
            raise GraphError(f"{where} has a field that no encoder has, number {tag >> 3}")
        values, place = message[field.name], f"{where}.{field.name}"
        if len(values) == field.most:
            raise GraphError(f"{place}: more than {field.most}")
        if tag & 7 != (_VARINT if field.kind is int else _DELIMITED):
            raise GraphError(f"{place} has wire type {tag & 7}")
        number, at = _varint(view, at, place)
        if field.kind is int:
            values.append(number)
            continue
        if number > len(view) - at:
            raise GraphError(f"{place} is cut short")
        values.append(_content(view[at : at + number], field, place))
        at += number
    for field in schema.values():
        if len(message[field.name]) < field.least:
            raise GraphError(f"{where} has {len(message[field.name])} of {field.name} and needs {field.least}")
    return message


def _content(view: memoryview, field: Field, place: str) -> str | memoryview | Message:
    if isinstance(field.kind, Mapping):
        return read_message(view, field.kind, place)
    if field.kind is memoryview:
        return view
    if len(view) > TEXT_MAX:
        raise GraphError(f"{place}: {len(view)} characters of text, and {TEXT_MAX} are the most")
    text = bytes(view).decode("latin-1")
    if not (text.isascii() and text.isprintable()):
        raise GraphError(f"{place} is not plain text")
    return text


def _varint(view: memoryview, at: int, where: str) -> tuple[int, int]:
    """The number at `at`, in its shortest form, and where it ends."""
    number = 0
    for index, byte in enumerate(view[at : at + _VARINT_BYTES_MAX]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if byte == 0 and index > 0:
                raise GraphError(f"{where}: a number is longer than it needs to be")
            return number, at + index + 1
    raise GraphError(f"{where}: a number is cut short, negative or larger than 2^63")
