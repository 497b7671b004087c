"""Sizes and durations as people write them: 1 GB is 10^9 bytes, 1 GiB is 2^30; 10min, 1.5h."""

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
# A small b after a large prefix ("Gb") means bits in common usage, so it is not taken for bytes.
_NUMBER = r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})"
_SIZE = re.compile(_NUMBER + r" ?(|B|[kKMG]i?B|[kmg]i?b)", re.ASCII)

# No bare number, which means steps elsewhere; no "m", which could be read as months.
_SECONDS = {"h": 3600, "min": 60, "s": 1}
_DURATION = re.compile(_NUMBER + rf" ?({'|'.join(_SECONDS)})", re.ASCII)
MAX_SECONDS = 365 * 24 * 3600


def parse_size(text: str) -> int:
    """Bytes in `text`, rounded down: "0.07GB" is 70,000,000.

    Raises ValueError for anything but a positive decimal number with B, kB, MB, GB, KiB, MiB, GiB or nothing.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size; write for example 0.07GB, 64MiB or 70000000")
    size_bytes = int(Decimal(match[1]) * _UNITS[match[2].lower()])
    if size_bytes < 1:
        raise ValueError(f"{text!r} is less than one byte; give for example 0.07GB")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Short decimal form for people: 70,000,000 is "70.0 MB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"


def exact_size(size_bytes: int) -> str:
    """Short form that `parse_size` reads back to the byte: 19,000,000 is "19MB"."""
    for unit in ("GB", "MB", "kB"):
        factor = _UNITS[unit.lower()]
        if size_bytes >= factor and 10 * size_bytes % factor == 0:
            return f"{size_bytes // factor}{_tenth(10 * size_bytes // factor % 10)}{unit}"
    return f"{size_bytes}"


def parse_duration(text: str) -> float:
    """Seconds in `text`: "10min" is 600.0.

    Raises ValueError for anything but a positive decimal number with s, min or h, and above a year.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a duration; write for example 30s, 10min or 1.5h")
    seconds = Decimal(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= MAX_SECONDS:
        wrong = "longer than a year; give at most 8760h" if seconds else "no time at all; give for example 30s"
        raise ValueError(f"{text!r} is {wrong}")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Short form for people, in the largest unit of which it is a whole number or so many tenths: 5400.0 is "1.5 h"."""
    for unit, length in _SECONDS.items():
        tenths = 10 * seconds / length
        if tenths >= 10 and tenths.is_integer():
            return f"{int(tenths) // 10}{_tenth(int(tenths) % 10)} {unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + " s"


def _tenth(digit: int) -> str:
    return f".{digit}" if digit else ""
