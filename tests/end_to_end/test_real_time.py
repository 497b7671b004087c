"""Control in real time through the command line and the Python API: a pole that falls by the wall clock."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from seer_edge.runs import checkpoint

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
POLE = ("--env", "pole:Pole-v0", "--mem-budget", "2MB", "--set", "hidden=16", "--set", "batch_size=8")
SETS = ("--set", "learning_starts=40", "--eval-episodes", "1", "--eval-max-steps", "40")
SECONDS = 120


def _start(*words: object, cwd: Path = EXAMPLES, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "seer_edge", *map(str, words)]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def _run(*words: object, cwd: Path = EXAMPLES) -> tuple[int, str, str]:
    with _start(*words, cwd=cwd) as process:
        out, error = process.communicate(timeout=SECONDS)
    return process.returncode, out, error


def _progress(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_in_real_time_freezes_evaluates_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ("--hz", "50", "--total-timesteps", "400", "--freeze-at", "150", "--eval-every", "200", "--log-every", "50")
    with _start("train", *POLE, *SETS, *flags, "--run-dir", folder) as process:
        begin = time.monotonic()
        while time.monotonic() - begin < SECONDS:
            if (folder / "progress.csv").exists() and len(_progress(folder)) >= 2:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "stopped at step" in error
    stopped_at = json.loads((folder / "summary.json").read_text())["timesteps"]
    assert 100 <= stopped_at < 400

    begin = time.monotonic()
    status, _, error = _run("resume", folder)
    assert status == 0, error
    assert "an environment in real time is not saved: a new episode begins" in error
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["timesteps"], summary["freeze_refused"]) == ("finished", 400, None)
    assert summary["freeze"]["timestep"] == 150
    assert len(summary["eval"]["returns"]) == 1
    figures = summary["real_time"]
    assert figures["hz"] == 50
    assert time.monotonic() - begin >= figures["ticks"] / 50
    assert figures["ticks"] + figures["missed"] >= 400 - stopped_at
    assert 0 < figures["age_of_observation_ms"]["p50"] <= figures["age_of_observation_ms"]["worst"]
    assert 0 <= figures["updates_per_step"] <= 1
    rows = _progress(folder)
    assert sum(float(row["control/ticks"]) for row in rows[2:]) >= 200
    assert {row["seer/frozen"] for row in rows} == {"0", "1"}

    bundle = tmp_path / "pole.seer"
    status, _, error = _run("export", folder, "-o", bundle, "--with", "learner", "--with", "replay")
    assert status == 0, error
    status, out, error = _run("act", bundle, "--episodes", "1", "--json")
    assert status == 0, error
    assert json.loads(out)["episodes"] == 1

    # Another run continues from the bundle in real time, as on a board.
    flags = ("--hz", "50", "--total-timesteps", "40", "--eval-every", "never")
    status, _, error = _run("train", *POLE, *SETS[:2], "--from", bundle, *flags, "--run-dir", tmp_path / "board")
    assert status == 0, error
    assert "replay rows are imported" in error
    assert json.loads((tmp_path / "board/summary.json").read_text())["real_time"]["updates_per_step"] > 0


def test_a_run_that_is_stopped_in_an_evaluation_repeats_it_at_the_same_step(tmp_path: Path) -> None:
    """Steps that the learner had not stored when the evaluation began are dropped, and do not come before it."""
    folder, log, tests = tmp_path / "run", tmp_path / "messages", Path(__file__).parent
    robot = ("--env", "robot_env:Robot", "--env-kwargs", json.dumps({"log": str(tmp_path / "robot")}))
    flags = ("--hz", "500", "--mem-budget", "1MB", "--set", "batch_size=128", "--set", "learning_starts=40")
    flags = (*flags, "--total-timesteps", "200", "--freeze-at", "never", "--eval-every", "60", "--run-dir", str(folder))
    flags = (*flags, "--eval-episodes", "50", "--rest-after", "60s", "--log-file", str(log))
    with _start("train", *robot, *flags, cwd=tests) as process:
        begin = time.monotonic()
        while "evaluation at step 60" not in (log.read_text() if log.exists() else ""):
            assert time.monotonic() - begin < SECONDS
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert "of the last steps are not stored" in error
    assert checkpoint.newest(folder / "checkpoints").timestep == 60


def test_a_failure_in_an_evaluation_is_reported_and_the_steps_are_saved(tmp_path: Path) -> None:
    folder, log, tests = tmp_path / "run", tmp_path / "log", Path(__file__).parent
    robot = ("--env", "robot_env:Robot", "--env-kwargs", json.dumps({"log": str(log), "fail_at": 90}))
    flags = ("--hz", "50", "--mem-budget", "1MB", "--set", "hidden=16", "--set", "batch_size=8", *SETS)
    flags = (*flags, "--total-timesteps", "200", "--freeze-at", "never", "--eval-every", "60", "--run-dir", str(folder))
    status, _, error = _run("train", *robot, *flags, cwd=tests)
    assert status == 75, error
    line = error.strip().splitlines()[-1]
    assert line.startswith("seer-edge train: the environment failed after step")
    assert "OSError: the camera is gone (robot_env.py:" in line
    timestep = json.loads((folder / "summary.json").read_text())["timesteps"]
    assert timestep >= 60
    assert checkpoint.newest(folder / "checkpoints").timestep == timestep
    assert log.read_text().splitlines()[-1] == "rest"


def test_a_run_is_evaluated_and_quantized_within_its_limits(tmp_path: Path) -> None:
    """All commands step the environment of the run at its rate and within its limits, and bring it to rest."""
    folder, log, tests = tmp_path / "run", tmp_path / "log", Path(__file__).parent
    robot = ("--env", "robot_env:Robot", "--env-kwargs", json.dumps({"log": str(log), "controls": 1}))
    limits = ("--hz", "500", "--action-limit=-0.2,0.3", "--slew-rate", "5")
    sizes = ("--mem-budget", "1MB", "--set", "hidden=16", "--set", "batch_size=8", "--set", "random_steps=20")
    flags = (*sizes, *SETS, "--total-timesteps", "100", "--freeze-at", "60", "--eval-every", "never")
    status, _, error = _run("train", *robot, *limits, *flags, "--run-dir", folder, cwd=tests)
    assert status == 0, error
    bundle = tmp_path / "policy.seer"
    recorded = ("record", *robot, "--policy", bundle, "--episodes", "1", "-o", tmp_path / "demos.seer")
    for words in (
        ("eval", folder),
        ("export", folder, "-o", bundle, "--int8"),
        ("act", bundle, "--episodes", "1"),
        ("eval", bundle),
        recorded,
    ):
        log.write_text("")
        status, _, error = _run(*words, cwd=tests)
        assert status == 0, error
        calls = log.read_text().splitlines()
        assert (calls[0], calls[-1]) == ("rest", "rest")
        sent = [float(call.split()[1]) for call in calls if call.startswith("step")]
        assert len(sent) >= 30
        # The agent's [-1, 1] is [-10, 10] of this robot. In a tick of 2 ms a control changes by 0.01.
        assert -2.001 <= min(sent) <= max(sent) <= 3.001
        assert max(abs(after - before) for before, after in itertools.pairwise(sent)) <= 0.101


def test_a_run_that_continues_from_a_robots_bundle_is_warned_of_limits_that_it_lacks(tmp_path: Path) -> None:
    folder, bundle, tests = tmp_path / "run", tmp_path / "policy.seer", Path(__file__).parent
    robot = ("--env", "robot_env:Robot", "--env-kwargs", json.dumps({"log": str(tmp_path / "log"), "controls": 1}))
    sizes = ("--mem-budget", "1MB", "--set", "hidden=16", "--set", "batch_size=8", "--total-timesteps", "60", *SETS)
    rate, limits = ("--hz", "500"), ("--action-limit=-0.2,0.3", "--slew-rate", "5")
    flags = (*sizes, "--freeze-at", "50", "--eval-every", "never")
    assert _run("train", *robot, *rate, *limits, *flags, "--run-dir", folder, cwd=tests)[0] == 0
    assert _run("export", folder, "-o", bundle, "--with", "learner")[0] == 0
    warning = f"--from {bundle}: its agent acted with --hz 500 --action-limit=-0.2,0.3 --slew-rate=5; give these"
    for given, warned in (((), True), (rate, True), ((*rate, *limits), False)):
        status, _, error = _run("plan", *robot, *given, *sizes, "--from", bundle, cwd=tests)
        assert status == 0, error
        assert (warning in error) == warned

    other = "import robot_env\n\nclass Narrow(robot_env.Robot):\n    action_limits = (-1, -0.5)\n"
    (tmp_path / "narrow.py").write_text(
        f"import sys\nsys.path.append({str(tests)!r})\n{other}    def __init__(self):\n"
        f"        super().__init__({str(tmp_path / 'log')!r}, controls=1)\n"
    )
    reason = "(--action-limit -0.2,0.3: the action_limits of Narrow allow none of these actions)"
    env = ("--env", "narrow:Narrow")
    for words, message in (
        (("act", bundle, *env), f"--env narrow:Narrow: does not fit the limits of this policy {reason}; use an env"),
        (
            ("record", *env, "--policy", bundle, "-o", "d.seer"),
            f"its limits do not fit narrow:Narrow {reason}; give",
        ),
    ):
        status, _, error = _run(*words, cwd=tmp_path)
        assert (status, error.count("\n")) == (2, 1)
        assert message in error


def test_an_environment_may_change_the_working_directory(tmp_path: Path) -> None:
    """The learner writes to a relative --run-dir while a step of the environment runs."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    init = "    def __init__(self):\n        super().__init__()\n        os.chdir('elsewhere')\n"
    (tmp_path / "moving.py").write_text(f"import os\nfrom pole import Pole\n\nclass Moving(Pole):\n{init}")
    flags = ("--hz", "100", "--total-timesteps", "60", "--eval-every", "never", "--checkpoint-every", "10")
    words = ("train", "--env", "moving:Moving", *POLE[2:], *SETS[:2], *flags, "--run-dir", "run")
    path = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    with _start(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}) as process:
        _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, error
    assert checkpoint.newest(tmp_path / "run" / "checkpoints").timestep == 60
    assert not list(elsewhere.iterdir())


def test_a_rate_that_the_environment_cannot_hold_is_reported_with_the_measured_one(tmp_path: Path) -> None:
    step = "    def step(self, action):\n        time.sleep(0.03)\n        return super().step(action)\n"
    (tmp_path / "slow.py").write_text(f"import time\nfrom pole import Pole\n\nclass Slow(Pole):\n{step}")
    path = os.pathsep.join([str(tmp_path), str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    flags = ("--hz", "100", "--total-timesteps", "100", "--eval-every", "never", "--freeze-at", "never")
    words = ("train", "--env", "slow:Slow", *POLE[2:], *SETS[:2], *flags, "--run-dir", tmp_path / "run")
    with _start(*words, env={**os.environ, "PYTHONPATH": path}) as process:
        _, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, error
    (line,) = [line for line in error.splitlines() if "ticks a second" in line]
    assert "not 100" in line
    assert "give a lower --hz" in line
    assert 0 < float(line.split(" ticks a second")[0].split()[-1]) < 34


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--hz", "0"), "'0' is not a rate above 0"),
        (("--hz", "fast"), "'fast' is not a rate above 0"),
        (("--hz", "2000"), "--hz 2000: give a rate from 0.001 to 1000"),
        (("--hz", "30", "--control-period", "100ms"), "not allowed with argument --hz"),
        (("--control-period", "soon"), "'soon'"),
        (("--hz", "30", "--max-updates-per-step", "0"), "--max-updates-per-step 0: give a whole number"),
        (("--hz", "30", "--min-updates-per-step", "-1"), "--min-updates-per-step -1: give a number of at least 0"),
    ],
)
def test_bad_rates_are_refused_in_one_line(flags: tuple[str, ...], message: str, tmp_path: Path) -> None:
    status, _, error = _run("train", *POLE, *flags, "--run-dir", tmp_path / "run")
    assert status == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


LOOP = """
import sys
import time
import seer_edge
from pole import FALLEN, Device

device = Device()
device.place(0.05)
options = {"hz": 100, "mem_budget": "2MB", "total_timesteps": int(sys.argv[2]), "freeze_at": 80}
options["set"] = {"hidden": 16, "batch_size": 8, "learning_starts": 30}
reward, fallen = 0.0, False
with seer_edge.Learner((84, 84), 3, run_dir=sys.argv[1], **options) as learner:
    for _ in range(int(sys.argv[3])):
        action = learner.step(device.picture(), reward, terminated=fallen)
        if learner.done:
            break
        if fallen:
            device.place(0.05)
            fallen = False
            continue
        assert action in (0, 1, 2)
        device.push(action - 1)
        time.sleep(0.01)
        fallen = abs(device.angle()) >= FALLEN
        reward = 1 - abs(device.angle()) / FALLEN
print(learner.result.status, learner.result.timestep)
"""


def test_a_program_with_its_own_loop_learns_resumes_and_acts(tmp_path: Path) -> None:
    program, folder = tmp_path / "loop.py", tmp_path / "run"
    program.write_text(LOOP)
    assert len(LOOP.splitlines()) <= 40
    path = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])

    def loop(*words: object) -> str:
        command = [sys.executable, str(program), str(folder), *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "PYTHONPATH": path}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")[-2]

    status, timestep = loop(200, 60).split()
    assert status == "interrupted"
    assert 50 <= int(timestep) < 60  # without the first frames of episodes
    assert loop(200, 10_000) == "finished 200"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["resumed_at"] == [int(timestep)]
    assert summary["freeze"]["timestep"] == 80
    status, _, error = _run("resume", folder, "--total-timesteps", "300")
    assert status == 2
    assert "use seer_edge.Learner there to learn, and seer_edge.Policy to act" in error

    bundle = tmp_path / "loop.seer"
    code, _, error = _run("export", folder, "-o", bundle)
    assert code == 0, error
    act = (
        "import sys, numpy as np\nfrom seer_runtime.policy.policy import Policy\n"
        "policy = Policy.load(sys.argv[1])\nprint(policy.act(np.zeros((84, 84), np.uint8)))"
    )
    done = subprocess.run([sys.executable, "-c", act, str(bundle)], capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("0", "1", "2")


def test_a_node_learns_from_images_that_arrive_by_callback(tmp_path: Path) -> None:
    program, folder = EXAMPLES / "ros2_style.py", tmp_path / "run"
    assert len(program.read_text().splitlines()) <= 80
    begin = time.monotonic()
    command = [sys.executable, str(program), str(folder), "150"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "finished 150\n"
    assert time.monotonic() - begin >= 150 / 30, "images come at a fixed rate"
    with (folder / "episodes.csv").open(newline="") as file:
        episodes = [*csv.DictReader(file)]
    assert episodes, "the pole falls"
    assert all(0 < float(row["return"]) < float(row["length"]) for row in episodes)
    assert json.loads((folder / "summary.json").read_text())["real_time"]["dropped_steps"] == 0


def test_a_node_that_is_asked_to_end_writes_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, str(EXAMPLES / "ros2_style.py"), str(folder), "100000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as node:
        deadline = time.monotonic() + SECONDS
        while not (folder / "episodes.csv").exists() or len((folder / "episodes.csv").read_text().splitlines()) < 3:
            assert node.poll() is None, node.stderr and node.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        node.terminate()
        assert node.wait(SECONDS) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["timesteps"] > 20
    assert checkpoint.newest(folder / "checkpoints").timestep == summary["timesteps"]
