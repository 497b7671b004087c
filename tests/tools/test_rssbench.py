"""rssbench prints consistent figures and rejects bad input."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import rssbench  # noqa: E402

from tests.processes import forked_tool  # noqa: E402

FAKE_TRAINING = """
import sys, time
base = b"x" * 20_000_000
time.sleep(0.1)
begin = time.monotonic()
time.sleep(0.2)  # the start of the freeze is known only approximately
kept, transient = b"x" * 10_000_000, b"x" * 30_000_000
time.sleep(0.1)
del transient
time.sleep(0.1)
seconds = time.monotonic() - begin
print(f"freeze at step 5: 1 rows carried over in {seconds:.2f} s, capacity x", file=sys.stderr, flush=True)
time.sleep(0.2)
late = b"x" * 60_000_000
time.sleep(0.1)
sys.exit(7)
"""


def _rssbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "rssbench.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def test_watch_prints_the_peak_and_the_memory_of_the_freeze(tmp_path: Path) -> None:
    out = tmp_path / "samples.csv"
    result = _rssbench("watch", "--out", str(out), "--", sys.executable, "-c", FAKE_TRAINING)
    assert result.returncode == 7
    assert result.stderr.startswith("freeze at step 5: ")
    _, *lines = result.stdout.splitlines()
    figures = {name.strip(): float(value) for name, value in (line.rsplit(maxsplit=1) for line in lines)}
    before, peak, after = (figures[f"freeze {moment}"] for moment in ("before", "peak", "after"))
    assert before > 20
    assert peak - before == pytest.approx(40, abs=2)
    assert after - before == pytest.approx(10, abs=2)
    assert figures["freeze growth"] == pytest.approx(after - before, abs=0.11)
    assert figures["freeze transient"] == pytest.approx(peak - after, abs=0.11)
    assert figures["process peak"] == pytest.approx(after + 60, abs=2)
    assert 90 < figures["anonymous peak"] < figures["process peak"]

    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
        samples = [(float(line["seconds"]), int(line["rss_bytes"])) for line in lines]
    assert samples[0][0] == 0
    assert samples == sorted(samples, key=lambda sample: sample[0])
    assert max(rss_bytes for _, rss_bytes in samples) == pytest.approx(figures["process peak"] * 1e6, abs=1e5)
    assert max(int(line["anon_bytes"]) for line in lines) == pytest.approx(figures["anonymous peak"] * 1e6, abs=1e5)


def test_watch_prints_only_the_peaks_without_a_freeze() -> None:
    result = _rssbench("watch", "--", sys.executable, "-c", "import time; time.sleep(0.1)")
    assert result.returncode == 0
    _, line, anonymous = result.stdout.splitlines()
    assert line.startswith("process peak")
    assert anonymous.startswith("anonymous peak")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("package", "arguments", "title"),
    [
        ("ale_py", ["--budget", "2MB"], "ALE/Alien-v5, frames 84x84, budget 2,000,000 B"),
        (
            "dm_control",
            ["--env", "cartpole-swingup", "--budget", "0.4MB", "--resolution", "25"],
            "dm_control/cartpole-swingup-v0, frames 3x25x25, budget 400,000 B",
        ),
    ],
)
def test_causes_add_up_to_the_peak(package: str, arguments: list[str], title: str) -> None:
    pytest.importorskip(package)
    pytest.importorskip("torch")
    result = _rssbench("causes", *arguments)
    assert result.returncode == 0, result.stderr
    first, _, *lines, peak, anon_peak, plan, rest, anon_rest = result.stdout.splitlines()
    assert first.startswith(title + ";")
    marks = [line.rsplit(maxsplit=5) for line in lines]
    assert marks[0][0] == "interpreter"
    assert marks[-1][0] == "evaluation"
    rss = [float(mark[1]) for mark in marks]
    assert sum(float(mark[2]) for mark in marks) == pytest.approx(rss[-1], abs=1)
    peaks = [float(mark[3]) for mark in marks]
    assert all(high >= low for high, low in zip(peaks, rss, strict=True))
    peak_bytes, rest_bytes = (int(line.split()[-2].replace(",", "")) for line in (peak, rest))
    assert peak_bytes == pytest.approx(max(peaks) * 1e6, abs=1e5)
    planned = [int(words[-1].replace(",", "")) for words in map(str.split, plan[len("plan: ") :].split(", "))]
    assert peak_bytes == sum(planned) + rest_bytes
    anon_bytes, anon_rest_bytes = (int(line.split()[-2].replace(",", "")) for line in (anon_peak, anon_rest))
    assert anon_bytes == pytest.approx(max(float(mark[5]) for mark in marks) * 1e6, abs=1e5)
    assert anon_bytes == sum(planned) + anon_rest_bytes
    assert anon_bytes < peak_bytes


@pytest.mark.parametrize(
    ("frozen", "figures"),
    [
        ((1.5, 3.5), (20, 50, 30)),  # between two samples, so use the ones around it
        ((2.0, 3.0), (20, 50, 50)),
        ((0.0, 9.0), (10, 70, 70)),  # beyond the first and the last sample
    ],
)
def test_the_freeze_spans_the_samples_around_it(frozen: tuple[float, float], figures: tuple[int, int, int]) -> None:
    samples = [(0.5, 10, 9), (1.0, 20, 8), (2.0, 40, 7), (3.0, 50, 6), (4.0, 30, 5), (5.0, 70, 4)]
    sizes = rssbench.watched_bytes(rssbench.Watched(0, samples, frozen))
    before, peak, after = figures
    assert sizes == {
        "process peak": 70,
        "anonymous peak": 9,
        "freeze before": before,
        "freeze peak": peak,
        "freeze after": after,
        "freeze growth": after - before,
        "freeze transient": peak - max(before, after),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["JOB"]),
        (["chart"], ["chart", "causes"]),
        (["causes", "--budget", "lots"], ["--budget", "'lots'"]),
        (["causes", "--env", "Alein"], ["--env Alein", "Alien"]),
        (["slope", "--budget", "1MB"], ["--budget"]),
        (["slope", "--resolution", "0"], ["--resolution", "'0'"]),
        (["causes", "--resolution", "5"], ["--resolution 5:", "16"]),
        (["slope", "--seed", "-1"], ["--seed"]),
        (["watch"], ["COMMAND"]),
        (["watch", "--", "no-such-program"], ["no-such-program", "give its path"]),
        (["watch", "--out", "/no/such/folder/x.csv", "--", sys.executable], ["--out", "cannot be written"]),
    ],
)
def test_bad_input_is_reported_in_one_line(arguments: list[str], words: list[str]) -> None:
    pytest.importorskip("ale_py")
    result = forked_tool(TOOLS / "rssbench.py", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert all(word in line for word in words)
