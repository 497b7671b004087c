"""`make test-arm64`: test the project's wheel on an emulated Raspberry Pi 4, with the packages that a real one gets.

The tests run `doctor`, the tests of the data plane, `act`, and continued learning from a bundle with the torch for
boards. They also compare a policy that was trained on this host frame by frame on both. Seconds are those of the
emulation and do not predict a board's speed. Where the host cannot emulate, print the reason and exit with 77.
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
from commandline import FaultError, Parser, progress, render, run_tool

EXIT_CANNOT = 77
PROJECT = Path(__file__).parents[1]
SEER_EDGE = ("python3.11", "-m", "seer_edge")
BASE, LEARNING = "base", "learning"
"""Names of the two sets of packages: without torch, and with it."""
EXTRAS = {BASE: "atari,test", LEARNING: "atari,train"}
REPORTED = ("torch", "onnxruntime", "numpy", "opencv-python-headless", "ale-py", "gymnasium", "onnx", "psutil")

# Left out under emulation: comparisons of thousands of rows with a naive model, which take half an hour there (a few
# conversions stay), and measurements of a process, which would measure qemu.
LEFT_OUT = (
    "not test_replay_machine and (not test_replay_model or 500-1-latent0) and not frequencies and not scan_of_all_rows "
    "and not draw_time_hardly_depends and not test_address_space_limit_is_read "
    "and not frees_memory_then_stops_at_its_ceiling and not bounded_heap and not anonymous_memory"
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
"""Number of test processes, each on one core, because qemu uses one core for a process."""
PLAY_STEPS = 500
TRAIN = ("train", "--env", "Alien", "--mem-budget", "14.2MB", "--total-timesteps", "2600", "--freeze-at", "2200")
LEARN_STEPS = 60
"""Steps to continue for. Each has an update, because the bundle contains enough rows."""


@dataclass
class Checks:
    """The checks that ran, in order, with their results."""

    machine: Arm64
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    sound: bool = True

    def take(self, name: str, check: Callable[[], str]) -> None:
        """Run one check and record its result. A failure does not stop the others."""
        progress(name)
        begin = time.monotonic()
        try:
            result = check()
        except FaultError as error:
            self.sound, result = False, f"FAILED: {error}"
        self.lines.append((name, f"{time.monotonic() - begin:.0f}", result))

    def emulated(self, site: str, *words: str) -> str:
        """Run a command on the emulated machine and return its output. Raises FaultError where it fails."""
        return _output(self.machine.command(site, *words))


def run(flags: argparse.Namespace) -> int:
    """Prepare the machine and run all checks; return the exit status."""
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
    checks.take("its actions compared with this host's", lambda: _actions(checks))
    checks.take("act", lambda: _act(checks))
    checks.take("train --from the bundle", lambda: _learn(checks))
    print(
        f"{flags.cpu} under qemu, Debian 12, Python 3.11: ready after {prepared:.0f} s, total "
        f"{time.monotonic() - begin:.0f} s"
    )
    print("wheels of aarch64: " + ", ".join(f"{name} {packages[name.replace('-', '_')]}" for name in REPORTED))
    print(render(("check", "seconds", "result"), checks.lines))
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
        outputs = list(threads.map(lambda part: checks.emulated(BASE, *PYTEST, *part), parts))
    passed = sum(int(count) for text in outputs for count in re.findall(r"(\d+) passed", text))
    if not passed:
        raise FaultError("no test ran")
    return f"{passed:,} passed"


def _bundle(share: Path) -> str:
    seer_edge = [sys.executable, "-m", "seer_edge"]
    _output([*seer_edge, *TRAIN, "--eval-episodes", "1", "--run-dir", str(share / "run")])
    export = ["export", str(share / "run"), "-o", str(share / "policy.seer"), "--with", "learner", "--with", "replay"]
    output = _output([*seer_edge, *export])
    return output.splitlines()[-1].rpartition(", ")[2]


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
    return f"{steps:,} steps, {rows:,} latents, RSS peak {peak / 1e6:.0f} MB including qemu"


def _output(words: list[str], cwd: Path | None = None) -> str:
    """Run a command and return its output. Raises FaultError where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        print(done.stdout[-20_000:], done.stderr[-20_000:], sep="\n", file=sys.stderr)
        raise FaultError(f"status {done.returncode}: {' '.join((done.stderr or done.stdout).splitlines()[-1:])}")
    return done.stdout


def main() -> int:
    """Run the command line; return the exit status."""
    parser = Parser(description="Test on an emulated 64-bit ARM board.")
    parser.add_argument(
        "--work", type=Path, default=PROJECT / "build/arm64", metavar="DIR", help="folder for downloads (build/arm64)"
    )
    parser.add_argument(
        "--cpu", choices=tuple(CPU_PARTS), default="cortex-a72", help="the board's processor (cortex-a72)"
    )
    parser.add_argument("--site", choices=tuple(EXTRAS), default=BASE, help="packages for COMMAND (base)")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="after --, run this instead of the checks")
    try:
        return run_tool("arm64.py", lambda: run(parser.parse_args()))
    except CannotEmulateError as error:
        print(f"arm64.py: cannot emulate 64-bit ARM here: {error}")
        return EXIT_CANNOT


if __name__ == "__main__":
    sys.exit(main())
