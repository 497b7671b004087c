"""Byte sizes as people write them: 1 GB is 10^9 bytes, 1 GiB is 2^30."""

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
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{0,20})?|\.\d{1,20}) ?(|B|[kKMG]i?B|[kmg]i?b)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes in `text`, rounded down: "0.07GB" is 70,000,000.

    Raises ValueError for anything but a positive decimal number with B, kB, MB, GB, KiB, MiB, GiB or nothing.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a size; write for example 0.07GB, 64MiB or 70000000")
    size_bytes = int(Decimal(match[1]) * _UNITS[match[2].lower()])
    if size_bytes < 1:
        raise ValueError(f"{text!r} is less than one byte")
    return size_bytes


def format_size(size_bytes: int) -> str:
    """Short decimal form for people: 70,000,000 is "70.0 MB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"
