"""SIGKILL of a robot's program while its learner saves or freezes and control continues."""

import functools
import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import seer_edge.training.freeze
from seer_runtime.replay.replay import ReplayConversion
from tests.faults import runs
from tests.faults.robot import Robot

INTERVAL, FREEZE_AT = 20, 60
SYNC_SECONDS = 0.03
"""How much longer each sync to the disk takes, as on a slow card."""
WORDS = ("--total-timesteps", "100000", "--freeze-at", str(FREEZE_AT), "--checkpoint-every", str(INTERVAL))


def log_saves_and_slow_down(log: Path, send: Any) -> None:
    """Write to `log` when a save or the freeze begins and when a save has ended, and slow the disk down."""
    sync = os.fsync
    export, convert = seer_edge.training.freeze.encoder_graph, ReplayConversion.run

    def say(line: str) -> None:
        with log.open("a") as lines:
            lines.write(f"{line}\n")

    def exporting(*args: Any, **given: Any) -> Any:
        say("freeze")
        return export(*args, **given)

    def converting(*args: Any, **given: Any) -> int:
        say("convert")
        return convert(*args, **given)

    def syncing(file: int) -> None:
        time.sleep(SYNC_SECONDS)
        sync(file)

    runs.around_saves(lambda step: say("save"), lambda step, path: say(f"saved {step}"))
    os.fsync = syncing
    seer_edge.training.freeze.encoder_graph = exporting
    ReplayConversion.run = converting  # type: ignore[method-assign]


def kill(folder: Path, moment: str, rng: random.Random) -> tuple[str, int]:
    """Kill a run soon after `moment` has begun; check its folder. Return its last event, and the steps lost."""
    folder.mkdir()
    notes = folder / "notes"
    robot = Robot(folder, *WORDS, prepare=functools.partial(log_saves_and_slow_down, notes), guarded=True)

    def lines() -> list[str]:
        return notes.read_text().splitlines() if notes.exists() else []

    wanted = rng.randrange(2, 7) if moment == "save" else 1  # without the first save there is nothing to resume
    robot.wait_for(lambda: lines().count(moment) >= wanted)
    time.sleep(rng.uniform(0, 0.4))
    robot.child.kill()
    robot.child.join()
    published = [int(line.split()[1]) for line in lines() if line.startswith("saved")]
    newest = robot.saved_at
    assert newest >= max(published, default=0)
    lost = robot.events.count("step") - newest
    end = max(newest, FREEZE_AT) + 5
    resume = ("resume", robot.run, "--total-timesteps", str(end))
    assert runs.start(robot.messages, runs.command, *resume).join() == 0, robot.messages.read_text()
    assert robot.saved_at == end
    return lines()[-1].split()[0], lost


@pytest.mark.fault(
    "SIGKILL at a random moment of a checkpoint or a freeze during control in real time",
    promise="the newest acknowledged checkpoint or a newer one loads, and the resumed run continues from it",
)
@pytest.mark.parametrize("trials", [3, pytest.param(50, marks=pytest.mark.faults)])
def test_a_run_in_real_time_survives_a_kill_while_it_saves(tmp_path: Path, trials: int, record_property: Any) -> None:
    moments = [("save", "freeze", "convert")[number % 3] for number in range(trials)]

    def trial(number: int) -> tuple[str, int]:
        return kill(tmp_path / str(number), moments[number], random.Random(number))

    with ThreadPoolExecutor(2) as pool:
        ended, lost = zip(*pool.map(trial, range(trials)), strict=True)
    record_property("trials", trials)
    print(f"{trials} kills after {dict(Counter(ended))}; steps lost: at most {max(lost)}, at 100 a second")
