"""Fork a run with settings that have no flag, and finish forks."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commandline import BadInputError, FaultError, Parser, progress, run_tool

if TYPE_CHECKING:
    from seer_edge.config.config import TrainConfig

POLL_SECONDS = 2.0
RESUME = (sys.executable, "-m", "seer_edge", "resume")


def config_of(run: Path) -> "TrainConfig":
    """Return the configuration of `run`. Raises BadInputError where it is not a run."""
    from seer_edge.runs.run_folder import RunFolder, is_run

    if not is_run(run):
        raise BadInputError(f"{run}: is not the folder of a run; name one")
    return RunFolder(run).read_config()


def resume_changed(script: str, about: str, change: Callable[[Path, "TrainConfig"], None]) -> int:
    """Run the command line of a script that resumes RUN in this process, after `change` changed how it trains.

    `change` gets RUN and its configuration, and raises BadInputError where it does not apply. Return the exit status.
    """
    parser = Parser(prog=script, description=about)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, stopped before the change matters")

    def resume() -> int:
        from seer_edge.cli import main

        run: Path = parser.parse_args().run
        change(run, config_of(run))
        sys.argv = ["seer-edge", "resume", os.fspath(run)]
        return main()

    return run_tool(script, resume)


def fork(base: Path, target: Path, **changes: Any) -> None:
    """Create the run `target` from the newest checkpoint of `base`, with `changes` in its configuration.

    A `seed` among the changes restarts all random streams from it. Do nothing where `target` is a run already. Raises
    BadInputError where `base` is not a run.
    """
    from seer_edge.runs import checkpoint, run_folder
    from seer_edge.training.fork import origin_of, write_fork

    try:
        if run_folder.is_run(target):
            return
        parent = run_folder.open_run(base)
        saved = checkpoint.newest(parent.checkpoints)
        config = dataclasses.replace(saved.config, **changes, origin=origin_of(base, saved), keep_checkpoint=())
        write_fork(parent, saved, config, target, reseed="seed" in changes, refreeze="freeze_at" in changes)
    except OSError as error:
        raise BadInputError(f"{base}: cannot be forked ({error})") from error


def finish_all(commands: Mapping[Path, Sequence[str]], jobs: int = 1) -> None:
    """Continue each run to its end, `jobs` at a time, by its command and its folder, with output in a .log file.

    Raises FaultError at the end where one has failed.
    """
    from seer_edge.runs.run_folder import RunFolder

    waiting = [run for run in commands if not RunFolder(run).is_finished]
    running: dict[Path, subprocess.Popen[bytes]] = {}
    failed = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                progress(run.name)
                running[run] = _start(commands[run], run)
            time.sleep(POLL_SECONDS)
            for run, child in list(running.items()):
                if child.poll() is not None:
                    del running[run]
                    if child.returncode != 0:
                        failed.append(f"{run} ended with status {child.returncode} (see {_log(run)})")
    finally:
        for child in running.values():
            child.terminate()
        for child in running.values():
            child.wait()
    if failed:
        raise FaultError(f"{', '.join(failed)}; repeat the command to continue")


def _start(command: Sequence[str], run: Path) -> "subprocess.Popen[bytes]":
    with _log(run).open("a") as output:
        return subprocess.Popen([*command, os.fspath(run)], stdout=output, stderr=subprocess.STDOUT)


def _log(run: Path) -> Path:
    return run.parent / f"{run.name}.log"
