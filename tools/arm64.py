"""`make test-arm64`: the project's wheel on an emulated Raspberry Pi 4, with the wheels that a real one would get.

What runs there: `doctor`, the data plane's tests, a policy that was trained on this host, frame by frame beside this
host, `act`, and learning on from its bundle with the torch for boards. Seconds are those of the emulation: they say
nothing of a board's speed. Where the host cannot emulate it prints why and exits 77.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from arm64_machine import CPU_PARTS, Arm64, CannotEmulateError
from commandline import FaultError, Parser, answer, render, say

EXIT_CANNOT = 77
PROJECT = Path(__file__).parents[1]
SEER_EDGE = ("python3.11", "-m", "seer_edge")
BASE, LEARNING = "base", "learning"
"""The two sets of packages: without torch, and with it."""
EXTRAS = {BASE: "atari,test", LEARNING: "atari,train"}
TOLD = ("torch", "onnxruntime", "numpy", "opencv-python-headless", "ale-py", "gymnasium", "onnx", "psutil")

# Not under emulation: what compares thousands of rows and draws with a naive model takes half an hour there, but for a
# few conversions, and what is measured of a process is that of qemu.
LEFT_OUT = (
    "not test_replay_machine and (not test_replay_model or 150-1-latent) and not frequencies and not scan_of_all_rows "
    "and not draw_time_hardly_depends and not test_address_space_limit_is_read "
    "and not frees_memory_then_stops_at_its_ceiling and not bounded_heap"
)
PYTEST = (
    "python3.11",
    "-m",
    "pytest",
    "-m",
    "not slow and not faults",
    "-k",
    LEFT_OUT,
    "-p",
    "no:cacheprovider",
    "--hypothesis-profile=emulated",
    "--durations=12",
)
AT_ONCE = 2
"""Parts that the tests come in, each on a core: qemu's code is as slow as one core is."""
PLAY_STEPS = 500
TRAIN = ("train", "--env", "Alien", "--mem-budget", "14.2MB", "--total-timesteps", "2600", "--freeze-at", "2200")
LEARN_STEPS = 60
"""Each with an update, because the bundle brings rows enough."""


@dataclass
class Checks:
    """What ran and how it ended, in order."""

    machine: Arm64
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    sound: bool = True

    def take(self, name: str, check: Callable[[], str]) -> None:
        """Run one; where it fails the others run all the same."""
        say(name)
        begin = time.monotonic()
        try:
            result = check()
        except FaultError as error:
            self.sound, result = False, f"FAILED: {error}"
        self.lines.append((name, f"{time.monotonic() - begin:.0f}", result))

    def emulated(self, site: str, *words: str) -> str:
        """What a command prints on the machine. Raises FaultError where it fails."""
        return _output(self.machine.command(site, *words))


def run(flags: argparse.Namespace) -> int:
    """Everything; returns the exit status."""
    begin = time.monotonic()
    machine = Arm64(flags.work, flags.cpu)
    machine.prepare()
    wheel = machine.build_wheel(PROJECT)
    packages: dict[str, str] = {}
    for site, extras in EXTRAS.items():
        packages |= machine.install(site, [f"{wheel}[{extras}]"], PROJECT / "constraints.txt")
    if flags.command:
        return subprocess.run(machine.command(flags.site, *flags.command)).returncode
    prepared = time.monotonic() - begin
    _copy_tests(machine.share)

    checks = Checks(machine)
    checks.take("doctor", lambda: _doctor(checks))
    checks.take("tests of the data plane", lambda: _tests(checks))
    checks.take("a bundle, trained on this host", lambda: _bundle(machine.share))
    checks.take("its actions beside this host's", lambda: _actions(checks))
    checks.take("act", lambda: _act(checks))
    checks.take("train --from the bundle", lambda: _learn(checks))
    print(
        f"{flags.cpu} under qemu, Debian 12, Python 3.11: ready after {prepared:.0f} s, in all "
        f"{time.monotonic() - begin:.0f} s"
    )
    print("wheels of aarch64: " + ", ".join(f"{name} {packages[name.replace('-', '_')]}" for name in TOLD))
    print(render(("what ran", "seconds", "result"), checks.lines))
    return 0 if checks.sound else 1


def _copy_tests(share: Path) -> None:
    listed = _output(["git", "-C", str(PROJECT), "ls-files", "-z", "tests", "pyproject.toml", "tools"])
    for name in filter(None, listed.split("\0")):
        target = share / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, target)


def _doctor(checks: Checks) -> str:
    found = json.loads(checks.emulated(BASE, *SEER_EDGE, "doctor", "--json"))
    if found["board"]["machine"] != "aarch64" or "asimd" not in found["board"]["features"]:
        raise FaultError(f"it found {found['board']}")
    return f"{found['board']['name']}, {', '.join(found['board']['features'])}"


def _tests(checks: Checks) -> str:
    files = sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "tests/runtime").glob("test_*.py"))
    parts = [files[part::AT_ONCE] for part in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        told = list(threads.map(lambda part: checks.emulated(BASE, *PYTEST, *part), parts))
    passed = sum(int(count) for text in told for count in re.findall(r"(\d+) passed", text))
    if not passed:
        raise FaultError("no test ran")
    return f"{passed:,} passed"


def _bundle(share: Path) -> str:
    seer_edge = [sys.executable, "-m", "seer_edge"]
    _output([*seer_edge, *TRAIN, "--eval-episodes", "1", "--run-dir", str(share / "run")])
    export = ["export", str(share / "run"), "-o", str(share / "policy.seer"), "--with", "learner", "--with", "replay"]
    told = _output([*seer_edge, *export])
    return told.splitlines()[-1].rpartition(", ")[2]


def _actions(checks: Checks) -> str:
    play = ["tools/arm64_play.py", "policy.seer", str(PLAY_STEPS)]
    _output([sys.executable, *play, "--out", "here.npz"], cwd=checks.machine.share)
    checks.emulated(BASE, "python3.11", *play, "--follow", "here.npz", "--out", "there.npz")
    compared = [sys.executable, "tools/arm64_play.py", "--compare", "here.npz", "there.npz"]
    return _output(compared, cwd=checks.machine.share).strip()


def _act(checks: Checks) -> str:
    result = json.loads(checks.emulated(BASE, *SEER_EDGE, "act", "policy.seer", "--episodes", "1", "--json"))
    return (
        f"{result['steps']:,} steps, return {result['mean_return']:g}, {result['frame_to_action_ms']['p50']:.1f} ms p50"
    )


def _learn(checks: Checks) -> str:
    words = ["--from", "policy.seer", "--env", "Alien", "--mem-budget", "5MB", "--total-timesteps", str(LEARN_STEPS)]
    checks.emulated(LEARNING, *SEER_EDGE, "train", *words, "--eval-episodes", "1", "--run-dir", "onward")
    summary = json.loads((checks.machine.share / "onward/summary.json").read_text())
    if summary["status"] != "finished" or not summary["steps_per_second"]["latent"]:
        raise FaultError(f"the summary says {summary}")
    steps, rows, peak = summary["timesteps"], summary["replay"]["rows"], summary["rss_peak_bytes"]
    return f"{steps:,} steps, {rows:,} latents, RSS peak {peak / 1e6:.0f} MB with qemu's own"


def _output(words: list[str], cwd: Path | None = None) -> str:
    """What a command prints. Raises FaultError where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        print(done.stdout[-20_000:], done.stderr[-20_000:], sep="\n", file=sys.stderr)
        raise FaultError(f"status {done.returncode}: {' '.join((done.stderr or done.stdout).splitlines()[-1:])}")
    return done.stdout


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = Parser(description="Test on an emulated 64-bit ARM board.")
    parser.add_argument(
        "--work", type=Path, default=PROJECT / "build/arm64", metavar="DIR", help="what is kept (build/arm64)"
    )
    parser.add_argument("--cpu", choices=tuple(CPU_PARTS), default="cortex-a72", help="the board's (cortex-a72)")
    parser.add_argument("--site", choices=tuple(EXTRAS), default=BASE, help="packages for COMMAND (base)")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="run that instead, after --")
    try:
        return answer("arm64.py", lambda: run(parser.parse_args()))
    except CannotEmulateError as error:
        print(f"arm64.py: cannot emulate 64-bit ARM here: {error}")
        return EXIT_CANNOT


if __name__ == "__main__":
    sys.exit(main())
