"""Read the fields of an untrusted JSON manifest, with a check of the type and range of each.

A dotted path such as `observation.stack` names a field. An invalid field raises a ValueError whose message is one line
and contains that path.
"""

import reprlib
import sys
from collections.abc import Collection, Mapping
from typing import Any

COUNT_MAX = 2**63 - 1
TEXT_MAX = 200


def shown(value: object) -> str:
    """Return `value` as text for a message: one line, at most 60 characters."""
    return reprlib.repr(value)[:60]


class ManifestReader:
    """Typed access to the fields of `values`. Every method raises ValueError for a missing or invalid field."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def value(self, field: str) -> Any:
        """Return the value of `field` without a type check."""
        above, _, key = field.rpartition(".")
        values = self.record(above) if above else self._values
        if key not in values:
            raise ValueError(f"{field} is missing")
        return values[key]

    def record(self, field: str, keys: Collection[str] | None = None) -> dict[str, Any]:
        """Return a JSON object. If `keys` is given, reject any other key."""
        value = self.value(field)
        self._require(isinstance(value, dict), field, value, "an object")
        unknown = [] if keys is None else sorted(set(value) - set(keys))
        if unknown:
            raise ValueError(f"{field} has the key {shown(unknown[0])}, which this release does not know")
        return dict(value)

    def count(self, field: str, least: int = 0, most: int = COUNT_MAX) -> int:
        """Return an integer from `least` to `most`."""
        value = self.value(field)
        wanted = f"an integer from {least:,} to {most:,}"
        self._require(type(value) is int and least <= value <= most, field, value, wanted)
        return int(value)

    def counts(self, field: str, most: int) -> tuple[int, ...]:
        """Return a list of integers from 1 to `most`, as a tuple."""
        value = self.value(field)
        valid = isinstance(value, list) and all(type(item) is int and 1 <= item <= most for item in value)
        self._require(valid, field, value, f"a list of integers from 1 to {most:,}")
        return tuple(value)

    def number(self, field: str, least: float, most: float) -> float:
        """Return a finite number from `least` to `most`."""
        value = self.value(field)
        valid = type(value) in (int, float) and least <= value <= most
        self._require(valid, field, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def numbers(self, field: str, count: int | None) -> tuple[float, ...]:
        """Return a list of `count` finite numbers, or of any count, as a tuple of floats."""
        value = self.value(field)
        most = sys.float_info.max  # an integer of JSON may be larger
        valid = isinstance(value, list) and all(type(item) in (int, float) and -most <= item <= most for item in value)
        wanted = "a list of finite numbers" if count is None else f"a list of {count:,} finite numbers"
        self._require(valid and count in (None, len(value)), field, value, wanted)
        return tuple(map(float, value))

    def text(self, field: str) -> str:
        """Return a string of 1 to `TEXT_MAX` printable characters."""
        value = self.value(field)
        valid = isinstance(value, str) and 0 < len(value) <= TEXT_MAX and value.isprintable()
        self._require(valid, field, value, f"1 to {TEXT_MAX} printable characters")
        return str(value)

    def choice(self, field: str, choices: Collection[str]) -> str:
        """Return a string that is one of `choices`."""
        value = self.value(field)
        self._require(isinstance(value, str) and value in choices, field, value, f"one of {', '.join(choices)}")
        return str(value)

    @staticmethod
    def _require(holds: bool, field: str, value: object, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{field} is {shown(value)}, not {wanted}")
