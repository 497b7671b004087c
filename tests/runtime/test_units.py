"""Tests of parsing and formatting sizes, durations and counts."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from seer_runtime.system.units import counted, exact_size, format_duration, format_size, parse_duration, parse_size


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
def test_parse_size_reads_decimal_and_binary_units(text: str, size_bytes: int) -> None:
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
def test_parse_size_rejects_invalid_text_and_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; use for example") as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["0", "0GB", "0.0B", "0.9B", "0.0000000001GB"])
def test_parse_size_rejects_less_than_one_byte(text: str) -> None:
    with pytest.raises(ValueError, match="less than one byte"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(70_000_000, "70.0 MB"), (1_500_000_000, "1.5 GB"), (7_056, "7.1 kB"), (999, "999 B"), (1_000, "1.0 kB")],
)
def test_format_size_rounds_to_one_decimal(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (19_000_000, "19MB"),
        (8_500_000, "8.5MB"),
        (388_080, "388080"),
        (390_000, "390kB"),
        (1_200_000_000, "1.2GB"),
        (70_560_000, "70560kB"),
        (999, "999"),
        (1_050, "1050"),
    ],
)
def test_exact_size_uses_the_shortest_exact_form(size_bytes: int, text: str) -> None:
    assert exact_size(size_bytes) == text


@given(st.one_of(st.integers(1, 10**15), st.builds(lambda a, b: a * 10**b, st.integers(1, 999), st.integers(0, 13))))
def test_parse_size_reads_an_exact_size_back(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


# --- durations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("10min", 600.0),
        ("2h", 7_200.0),
        ("1.5h", 5_400.0),
        (".5 min", 30.0),
        (" 1 h\n", 3_600.0),
        ("0.1s", 0.1),
        ("0.1min", 6.0),
        ("8760h", 31_536_000.0),
    ],
)
def test_parse_duration_reads_seconds_minutes_and_hours(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "10",
        "10m",
        "10M",
        "10MIN",
        "5d",
        "s",
        ".s",
        "-1s",
        "+1s",
        "1e3s",
        "nan",
        "infs",
        "1_0s",
        "1,5h",
        "1h30min",
        "1h 2",
        "1  h",
        "0x1s",
        "٣s",
        "３h",
        "10 sec",
        "9" * 21 + "s",
    ],
)
def test_parse_duration_rejects_invalid_text_and_quotes_it(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; use for example 30s, 10min") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("0s", "is zero"), ("0.00h", "is zero"), ("8760.001h", "than a year"), ("9" * 20 + "h", "a year")],
)
def test_parse_duration_rejects_zero_and_more_than_a_year(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (30.0, "30 s"),
        (600.0, "10 min"),
        (1_800.0, "30 min"),
        (5_400.0, "1.5 h"),
        (3_600.0, "1 h"),
        (100.0, "100 s"),
        (0.25, "0.25 s"),
        (12.3456, "12.3456 s"),
    ],
)
def test_format_duration_uses_the_largest_exact_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.one_of(st.integers(1, 10**7).map(float), st.floats(1e-3, 3e7)))
@example(359.9999)
def test_parse_duration_reads_a_formatted_duration_back(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize(("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_200, "1,200 rows")])
def test_a_count_has_its_noun_in_the_singular_or_plural(count: int, text: str) -> None:
    assert counted(count, "row") == text
