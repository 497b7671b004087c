"""The fields of a manifest that anybody may have written: each is read with its type and range.

A field is named as a path of keys, `observation.stack`. What it must not be is a ValueError of one line with its name.
"""

import reprlib
from collections.abc import Collection, Mapping
from typing import Any

COUNT_MAX = 2**63 - 1
TEXT_MAX = 200


def shown(value: object) -> str:
    """A value of a manifest in a few characters, on one line."""
    return reprlib.repr(value)[:60]


class Fields:
    """The fields of `values`. Every method raises ValueError for one that is missing or not what is asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def value(self, field: str) -> Any:
        """Whatever is there."""
        above, _, key = field.rpartition(".")
        values = self.record(above) if above else self._values
        if key not in values:
            raise ValueError(f"{field} is missing")
        return values[key]

    def record(self, field: str, keys: Collection[str] | None = None) -> dict[str, Any]:
        """A JSON object; of `keys` alone, where they are given."""
        value = self.value(field)
        self._require(isinstance(value, dict), field, value, "an object")
        unknown = [] if keys is None else sorted(set(value) - set(keys))
        if unknown:
            raise ValueError(f"{field} has {shown(unknown[0])}, which this release does not know")
        return dict(value)

    def count(self, field: str, least: int = 0, most: int = COUNT_MAX) -> int:
        """A whole number."""
        value = self.value(field)
        wanted = f"a whole number from {least:,} to {most:,}"
        self._require(type(value) is int and least <= value <= most, field, value, wanted)
        return int(value)

    def counts(self, field: str, most: int) -> tuple[int, ...]:
        """A few whole numbers from 1 on."""
        value = self.value(field)
        right = isinstance(value, list) and all(type(item) is int and 1 <= item <= most for item in value)
        self._require(right, field, value, f"a list of whole numbers from 1 to {most:,}")
        return tuple(value)

    def number(self, field: str, least: float, most: float) -> float:
        """A finite number."""
        value = self.value(field)
        right = type(value) in (int, float) and least <= value <= most
        self._require(right, field, value, f"a number from {least:g} to {most:g}")
        return float(value)

    def text(self, field: str) -> str:
        """A few printable characters."""
        value = self.value(field)
        right = isinstance(value, str) and 0 < len(value) <= TEXT_MAX and value.isprintable()
        self._require(right, field, value, f"1 to {TEXT_MAX} printable characters")
        return str(value)

    def choice(self, field: str, choices: Collection[str]) -> str:
        """One of `choices`."""
        value = self.value(field)
        self._require(isinstance(value, str) and value in choices, field, value, f"one of {', '.join(choices)}")
        return str(value)

    @staticmethod
    def _require(holds: bool, field: str, value: object, wanted: str) -> None:
        if not holds:
            raise ValueError(f"{field} is {shown(value)}, not {wanted}")
