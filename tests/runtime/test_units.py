"""Sizes as people write them."""

import pytest

from seer_runtime.units import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0.07GB", 70_000_000),
        ("0.07 GB", 70_000_000),
        ("0.07gb", 70_000_000),
        ("0.03GB", 30_000_000),
        ("70000000", 70_000_000),
        ("70000000B", 70_000_000),
        ("70000kB", 70_000_000),
        ("70000KB", 70_000_000),
        ("70MB", 70_000_000),
        (" 70MB\n", 70_000_000),
        ("1GiB", 2**30),
        ("1gib", 2**30),
        (".5GiB", 2**29),
        ("64MiB", 64 * 2**20),
        ("1.KiB", 1024),
        ("1.0000000015GB", 1_000_000_001),  # rounded down
        ("0.29GB", 290_000_000),  # 0.29 * 10**9 is 289,999,999.99… in binary floats
        ("1", 1),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    [
        "0.07 gigs",
        "-1GB",
        "+1GB",
        "7Gbit",
        "7Gb",
        "7Mb",
        "7Kb",
        "7Gib",
        "nan",
        "inf",
        "infGB",
        "1e9",
        "1e9B",
        "",
        " ",
        "GB",
        ".",
        ".GB",
        "1_000",
        "1,5GB",
        "1GB 2",
        "1  GB",
        "0x10",
        "٣GB",
        "３GB",
        "1TB",
    ],
)
def test_what_is_not_a_size_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write for example") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0", "0GB", "0.0B", "0.9B", "0.0000000001GB"])
def test_less_than_a_byte_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="less than one byte"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(70_000_000, "70.0 MB"), (1_500_000_000, "1.5 GB"), (7_056, "7.1 kB"), (999, "999 B"), (1_000, "1.0 kB")],
)
def test_format(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
