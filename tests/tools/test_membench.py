"""membench writes consistent figures and rejects bad input."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from seer_runtime.replay.codecs import LATENT_CODECS
from tests.processes import forked_tool

TOOLS = Path(__file__).parents[2] / "tools"
PEERS = ("TorchRL compressed stacks", "sb3-extra-buffers stacks")
"""Stores of projects that may be installed."""


def _membench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "membench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_the_command_writes_table_csv_and_chart(tmp_path: Path) -> None:
    budget_bytes = 2_000_000
    result = _membench("--budget", "2MB", "--batches", "3", "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    assert "frames of a random policy" in result.stdout
    assert (tmp_path / "out" / "membench.png").read_bytes().startswith(b"\x89PNG")
    with (tmp_path / "out" / "membench.csv").open(newline="") as file:
        lines = {line["store"]: line for line in csv.DictReader(file)}

    exact = {"two stacks a row": 2 * 4 * 7_056, "one stack a row": 4 * 7_056, "frames once": 7_056}
    latents = {f"latents {codec}": 576 * element.element_bytes for codec, element in LATENT_CODECS.items()}
    compact = {f"compact {codec}": latents[f"latents {codec}"] for codec in LATENT_CODECS}
    pairs = [name for pair in zip(latents, compact, strict=True) for name in pair]
    assert [name for name in lines if name not in PEERS] == [*exact, "LZ4 frames", "compact frames", *pairs]
    frames = budget_bytes // 7_056
    for name, line in lines.items():
        bytes_, capacity = float(line["bytes_a_transition"]), int(line["capacity"])
        # The arena's size is a multiple of a frame's, also for latents.
        room = frames * 7_056 if name in latents else budget_bytes
        assert bytes_ == pytest.approx({**exact, **latents}.get(name, bytes_))
        assert capacity == int(room // bytes_)
        assert float(line["relative_capacity"]) == pytest.approx(capacity / frames)
        assert int(line["rows"]) <= min(capacity, frames)
        assert float(line["sample_seconds"]) > 0
        assert 0 < float(line["append_seconds"]) <= float(line["append_seconds_worst"])
        assert f"{capacity:,}" in result.stdout
        rss, anon = ([line[f"{kind}_{when}_bytes"] for when in ("before", "peak", "after")] for kind in ("rss", "anon"))
        if name in pairs:
            assert float(line["conversion_seconds"]) > 0
            assert int(rss[1]) >= max(int(rss[0]), int(rss[2]))
            assert int(rss[1]) > int(anon[1]) >= max(int(anon[0]), int(anon[2])) > 0
        else:
            assert [line["conversion_seconds"], *rss, *anon] == [""] * 7
    assert 100 < float(lines["LZ4 frames"]["bytes_a_transition"]) < 7_056
    assert 50 < float(lines["compact frames"]["bytes_a_transition"]) < 700
    for name, size in compact.items():
        assert 20 < float(lines[name]["bytes_a_transition"]) < size


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budget", "lots"], ["--budget", "'lots'"]),
        (["--budget", "100kB"], ["--budget 100000", "use at least 169344"]),
        (["--env", "Alein"], ["--env Alein", "Alien"]),
        (["--rows", "0"], ["--rows", "'0'"]),
        (["--rows", "5"], ["--rows 5", "use at least 24"]),
        (["--batches", "1.5"], ["--batches", "'1.5'"]),
        (["--out", __file__], ["--out", "cannot be written"]),
        (["--nonsense"], ["--nonsense"]),
        (["--policy", "nothing.seer"], ["--policy", "nothing.seer"]),
        (["--policy", "nothing.seer", "--env", "Alien"], ["--env: not allowed with argument --policy"]),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = forked_tool(TOOLS / "membench.py", "--out", out, *arguments)
    assert result.returncode == 2
    assert not out.exists()
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words)
