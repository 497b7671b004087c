"""Parse and format sizes (1 GB is 10^9 bytes, 1 GiB is 2^30 bytes), durations (30s, 10min, 1.5h) and counts."""

import re
from decimal import Decimal

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
# A lowercase b after an uppercase prefix ("Gb") usually means bits, so it is rejected.
_NUMBER = r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})"
_SIZE = re.compile(_NUMBER + r" ?(|B|[kKMG]i?B|[kmg]i?b)", re.ASCII)

# A bare number is rejected because it means steps elsewhere, and "m" because it could mean months.
_SECONDS = {"h": 3600, "min": 60, "s": 1}
_DURATION = re.compile(_NUMBER + rf" ?({'|'.join(_SECONDS)})", re.ASCII)
MAX_SECONDS = 365 * 24 * 3600


def parse_size(text: str) -> int:
    """Return the number of bytes in `text`, rounded down: "0.07GB" is 70,000,000.

    `text` is a positive decimal number with the unit B, kB, MB, GB, KiB, MiB or GiB, or without a unit. Raises
    ValueError for any other text.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size; use for example 0.07GB, 64MiB or 70000000")
    size_bytes = int(Decimal(match[1]) * _UNITS[match[2].lower()])
    if size_bytes < 1:
        raise ValueError(f"{text!r} is less than one byte; use for example 0.07GB")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Return a size in decimal units, rounded to one decimal: 70,000,000 is "70.0 MB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def exact_size(size_bytes: int) -> str:
    """Return a short form that `parse_size` reads back exactly: 19,000,000 is "19MB"."""
    for unit in ("GB", "MB", "kB"):
        factor = _UNITS[unit.lower()]
        if size_bytes >= factor and 10 * size_bytes % factor == 0:
            return f"{size_bytes // factor}{_tenth(10 * size_bytes // factor % 10)}{unit}"
    return f"{size_bytes}"


def parse_duration(text: str, examples: str = "30s, 10min or 1.5h") -> float:
    """Return the number of seconds in `text`: "10min" is 600.0.

    `text` is a positive decimal number with the unit s, min or h. Raises ValueError for any other text and for more
    than a year. Its message gives the `examples`.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a duration; use for example {examples}")
    seconds = Decimal(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= MAX_SECONDS:
        reason = "longer than a year; use at most 8760h" if seconds else "zero; use for example 30s"
        raise ValueError(f"{text!r} is {reason}")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Return a short form of a duration: 5400.0 is "1.5 h".

    The unit is the largest one that expresses the duration exactly with at most one decimal.
    """
    for unit, length in _SECONDS.items():
        tenths = 10 * seconds / length
        if tenths >= 10 and tenths.is_integer():
            return f"{int(tenths) // 10}{_tenth(int(tenths) % 10)} {unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"


def _tenth(digit: int) -> str:
    return f".{digit}" if digit else ""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: "1 episode", "1,200 rows"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
