"""SIGKILL at any moment of a real run: no acknowledged checkpoint is lost, and the resumed run ends identically."""

import functools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import seer_edge.training.freeze
from seer_edge.runs import checkpoint
from seer_edge.runs.checkpoint import Snapshot
from seer_edge.training.session import Session
from seer_runtime import durable
from seer_runtime.durable import files
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.replay.convert import Conversion
from tests.faults import runs
from tests.runtime.durable_faults import STEPS

CONFIG = runs.alien(eval_every=160)
FREEZE_AT, LEARNING_STARTS = 90, 20
PHASES = {
    # Name of the phase: how often it occurs, and about how long it lasts in seconds.
    "collect": (LEARNING_STARTS - 1, 0.004),
    "pixel learning": (FREEZE_AT - LEARNING_STARTS, 0.02),
    "export": (1, 0.03),
    "conversion": (1, 0.03),
    "latent learning": (160 - FREEZE_AT, 0.01),
    "checkpoint": (9, 0.06),
}


# --- in the child ------------------------------------------------------------------------------------------


def report(tell: Callable[[Any], None]) -> None:
    """Send a message when each phase begins and ends, and for each checkpoint after it was published."""

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        tell(("begin", name))
        yield
        tell(("end", name))

    def telling(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            with phase(name):
                return function(*args)

        return called

    step, save = Session.step, checkpoint.save

    def stepping(session: Session) -> Any:
        pixels = "collect" if session.timestep < LEARNING_STARTS else "pixel learning"
        with phase("latent learning" if session.agent.frozen else pixels):
            return step(session)

    def saving(snapshot: Snapshot, *args: Any) -> Path:
        with phase("checkpoint"):
            path = save(snapshot, *args)
        tell(("saved", snapshot.timestep))
        return path

    Session.step = stepping  # type: ignore[method-assign]
    checkpoint.save = saving  # type: ignore[assignment]
    seer_edge.training.freeze.encoder_graph = telling("export", seer_edge.training.freeze.encoder_graph)
    Conversion.run = telling("conversion", Conversion.run)  # type: ignore[method-assign]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise MemoryError("injected")


def at_chunk(number: int, act: Callable[[], None], tell: Callable[[Any], None]) -> None:
    """Call `act` when the conversion has encoded its chunk `number` and not yet written it."""
    run = Conversion.run

    def running(conversion: Conversion, encode: OnnxEncoder) -> int:
        chunks = iter(range(10**6))

        def encoding(stacks: Any) -> Any:
            latents = encode(stacks)
            if next(chunks) == number:
                act()
            return latents

        return run(conversion, encoding)

    Conversion.run = running  # type: ignore[method-assign, assignment]
    report(tell)


def at_step_of_a_save(number: int, save_at: int, tell: Callable[[Any], None]) -> None:
    """Send each file system step of the checkpoint at step `save_at`, and SIGKILL this process at step `number`."""
    save, now = checkpoint.save, {"saving": False, "count": 0}

    def counted(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            if now["saving"]:
                tell(("step", name))
                now["count"] += 1
                if now["count"] == number + 1:
                    die()
            return step(*args)

        return called

    def saving(snapshot: Snapshot, *args: Any) -> Path:
        now["saving"] = snapshot.timestep == save_at
        path = save(snapshot, *args)
        now["saving"] = False
        return path

    for name in STEPS:
        setattr(files, name, counted(name, getattr(files, name)))
    checkpoint.save = saving  # type: ignore[assignment]
    report(tell)


# --- the oracle --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The undisturbed run: the hashes of each of its checkpoints, by step, and its results."""

    generations: dict[int, dict[str, str]]
    results: dict[str, Any]


def keep_all(tell: Callable[[Any], None]) -> None:
    """Send the hashes of each checkpoint when it is published."""
    save = checkpoint.save

    def saving(snapshot: Snapshot, *args: Any) -> Path:
        path = save(snapshot, *args)
        tell((snapshot.timestep, runs.fingerprint(path)))
        return path

    checkpoint.save = saving  # type: ignore[assignment]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    child = runs.start(folder / "log", runs.train, CONFIG, folder / "run", prepare=keep_all)
    assert child.join() == 0, (folder / "log").read_text()
    return Reference(dict(child.messages()), runs.results(folder / "run"))


def check(folder: Path, told: list[Any], reference: Reference) -> None:
    """Check that an acknowledged or newer checkpoint loads and equals the reference's, and that `resume` ends alike."""
    acknowledged = [step for what, step in told if what == "saved"]
    found = durable.newest_checkpoint(folder / "run/checkpoints")
    step = found.manifest["timestep"]
    assert step >= max(acknowledged)
    assert found.skipped == ()
    assert runs.fingerprint(found.path) == reference.generations[step]
    rows = durable.read_tensors(found.path / checkpoint.REPLAY, ("rows",))["rows"]
    assert rows.nbytes <= CONFIG.mem_budget_bytes
    child = runs.start(folder / "log", runs.command, "resume", folder / "run")
    log = folder / "log"
    assert child.join() == 0, log.read_text()
    assert runs.fingerprint(runs.newest(folder / "run")) == reference.generations[160]
    assert runs.results(folder / "run") == reference.results
    leftovers = [path.name for path in (folder / "run/checkpoints").iterdir() if not path.name.startswith("step_")]
    assert leftovers == []


# --- at random moments -------------------------------------------------------------------------------------


def kill_in(phase: str, folder: Path, reference: Reference, draw: random.Random) -> str | None:
    """Run one trial; return the phase in which the run was killed, or None where it had already ended."""
    folder.mkdir()
    child = runs.start(folder / "log", runs.train, CONFIG, folder / "run", prepare=report)
    times, seconds = PHASES[phase]
    wanted, told = draw.randrange(times) + (phase == "checkpoint"), []
    try:
        while True:
            told.append(child.pipe.recv())
            if told[-1] == ("begin", phase):
                if wanted == 0:
                    break
                wanted -= 1
        time.sleep(draw.random() * seconds)
        status = child.kill()
    except EOFError:
        status = child.join()
    told += child.messages()
    if status == 0:
        return None
    assert status == -signal.SIGKILL, (folder / "log").read_text()
    check(folder, told, reference)
    started = Counter(name for what, name in told if what == "begin")
    ended = Counter(name for what, name in told if what == "end")
    inside = [name for name, count in started.items() if count > ended[name]]
    return inside[-1] if inside else "between"


def kill_at_random(count: int, folder: Path, reference: Reference) -> Counter[str]:
    """Run `count` trials, two at a time, equally many in each phase; count the phases of the kills."""
    phases = list(PHASES)

    def trial(number: int) -> str:
        for attempt in range(5):
            draw = random.Random(1_000 * number + attempt)
            died = kill_in(phases[number % len(phases)], folder / f"{number}-{attempt}", reference, draw)
            if died is not None:
                return died
        raise AssertionError("five runs ended before they were killed")

    with ThreadPoolExecutor(2) as pool:
        return Counter(pool.map(trial, range(count)))


RANDOM = pytest.mark.fault(
    "SIGKILL at a random moment of collecting, pixel learning, export, conversion, latent learning or a checkpoint",
    promise="the newest acknowledged checkpoint or a newer one loads; it and the end after `resume` equal"
    " the undisturbed run's, bit for bit",
)


@RANDOM
def test_killed_at_a_random_moment_of_each_phase(
    reference: Reference, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    record_property("trials", sum(kill_at_random(len(PHASES), tmp_path, reference).values()))


@pytest.mark.faults
@RANDOM
def test_killed_at_204_random_moments(
    reference: Reference, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    died = kill_at_random(204, tmp_path, reference)
    print(f"died in: {dict(died)}")
    assert set(died) >= set(PHASES)
    record_property("trials", sum(died.values()))


# --- at every chunk and at every step ----------------------------------------------------------------------

CHUNK = pytest.mark.fault(
    "SIGKILL or a failed allocation at each chunk of the conversion",
    promise="the checkpoint from before the freeze is kept (exit 75 after a failed allocation); `resume` "
    "freezes again, bit for bit",
)
CHUNKS = 5  # 67 rows, 16 at a time


def chunk_trial(number: int, act: Callable[[], None], folder: Path, reference: Reference) -> None:
    folder.mkdir(exist_ok=True)
    prepare = functools.partial(at_chunk, number, act)
    child = runs.start(folder / "log", runs.train, CONFIG, folder / "run", prepare=prepare)
    status, log = child.join(), folder / "log"
    assert status == (75 if act is fail else -signal.SIGKILL), log.read_text()
    if act is fail:
        last = log.read_text().splitlines()[-1]
        assert "the conversion at step 90 failed: injected" in last
    assert durable.newest_checkpoint(folder / "run/checkpoints").manifest["timestep"] == FREEZE_AT
    check(folder, child.messages(), reference)


@CHUNK
@pytest.mark.parametrize(("number", "act"), [(0, die), (3, fail)])
def test_a_run_survives_the_end_of_its_conversion_at_a_chunk(
    number: int, act: Callable[[], None], reference: Reference, tmp_path: Path
) -> None:
    chunk_trial(number, act, tmp_path, reference)


@pytest.mark.faults
@CHUNK
@pytest.mark.parametrize("act", [die, fail])
@pytest.mark.parametrize("number", range(CHUNKS))
def test_a_run_survives_the_end_of_its_conversion_at_every_chunk(
    number: int, act: Callable[[], None], reference: Reference, tmp_path: Path
) -> None:
    chunk_trial(number, act, tmp_path, reference)


def steps_of_a_save(save_at: int, folder: Path) -> list[str]:
    folder.mkdir()
    prepare = functools.partial(at_step_of_a_save, 10**9, save_at)
    child = runs.start(folder / "log", runs.train, CONFIG, folder / "run", prepare=prepare)
    told: list[Any] = []
    while ("saved", save_at) not in told:
        told.append(child.pipe.recv())
    child.kill()
    return [name for what, name in told if what == "step"]


@pytest.mark.fault(
    "SIGKILL at each file system step of writing a checkpoint",
    promise="the old or the new checkpoint is sound; `resume` ends as the undisturbed run does, bit for bit",
)
@pytest.mark.faults
@pytest.mark.parametrize("save_at", [40, 90, 120])
def test_killed_at_every_file_system_step_of_a_checkpoint(
    save_at: int, reference: Reference, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    names = steps_of_a_save(save_at, tmp_path / "count")
    assert {"_create", "_write", "_fsync", "_fsync_folder", "_rename", "_make_folder"} <= set(names)

    def trial(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        prepare = functools.partial(at_step_of_a_save, number, save_at)
        child = runs.start(folder / "log", runs.train, CONFIG, folder / "run", prepare=prepare)
        assert child.join() == -signal.SIGKILL, (folder / "log").read_text()
        check(folder, child.messages(), reference)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(trial, range(len(names))))
    record_property("trials", len(names))
