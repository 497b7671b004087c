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
from seer_edge.config.config import TrainConfig
from seer_edge.runs import checkpoint
from seer_edge.training.session import Session
from seer_runtime import durable
from seer_runtime.durable import files
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.replay.replay import ReplayConversion
from tests.faults import runs
from tests.runtime.durable_faults import STEPS

CONFIGS = {"paper": runs.alien(eval_every=160), "compact": runs.compact(eval_every=160)}
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


def report(send: Callable[[Any], None]) -> None:
    """Send a message when each phase begins and ends, and for each checkpoint after it was published."""

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        send(("begin", name))
        yield
        send(("end", name))

    def reported(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            with phase(name):
                return function(*args)

        return called

    step = Session.step

    def stepping(session: Session) -> Any:
        pixels = "collect" if session.timestep < LEARNING_STARTS else "pixel learning"
        with phase("latent learning" if session.agent.frozen else pixels):
            return step(session)

    def saved(step: int, path: Path) -> None:
        send(("end", "checkpoint"))
        send(("saved", step))

    Session.step = stepping  # type: ignore[method-assign]
    runs.around_saves(lambda step: send(("begin", "checkpoint")), saved)
    seer_edge.training.freeze.encoder_graph = reported("export", seer_edge.training.freeze.encoder_graph)
    ReplayConversion.run = reported("conversion", ReplayConversion.run)  # type: ignore[method-assign]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise MemoryError("injected")


def at_chunk(number: int, act: Callable[[], None], send: Callable[[Any], None]) -> None:
    """Call `act` when the conversion has encoded its chunk `number` and not yet written it."""
    run = ReplayConversion.run

    def running(conversion: ReplayConversion, encode: OnnxEncoder, *args: Any) -> int:
        chunks = iter(range(10**6))

        def encoding(stacks: Any) -> Any:
            latents = encode(stacks)
            if next(chunks) == number:
                act()
            return latents

        return run(conversion, encoding, *args)

    ReplayConversion.run = running  # type: ignore[method-assign, assignment]
    report(send)


def at_step_of_a_save(number: int, save_at: int, send: Callable[[Any], None]) -> None:
    """Send each file system step of the checkpoint at step `save_at`, and SIGKILL this process at step `number`."""
    now = {"saving": False, "count": 0}

    def counted(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            if now["saving"]:
                send(("step", name))
                now["count"] += 1
                if now["count"] == number + 1:
                    die()
            return step(*args)

        return called

    for name in STEPS:
        setattr(files, name, counted(name, getattr(files, name)))
    runs.around_saves(lambda step: now.update(saving=step == save_at), lambda step, path: now.update(saving=False))
    report(send)


# --- the oracle --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The undisturbed run: its configuration, the hashes of each of its checkpoints, by step, and its results."""

    config: TrainConfig
    hashes: dict[int, dict[str, str]]
    results: dict[str, Any]


def keep_all(send: Callable[[Any], None]) -> None:
    """Send the hashes of each checkpoint when it is published."""
    runs.around_saves(after=lambda step, path: send((step, runs.fingerprint(path))))


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """A function that returns the undisturbed run with a store."""

    @functools.cache
    def run(store: str) -> Reference:
        folder, config = tmp_path_factory.mktemp(store), CONFIGS[store]
        child = runs.start(folder / "log", runs.train, config, folder / "run", prepare=keep_all)
        assert child.join() == 0, (folder / "log").read_text()
        return Reference(config, dict(child.messages()), runs.results(folder / "run"))

    return run


@pytest.fixture(scope="module")
def reference(references: Callable[[str], Reference]) -> Reference:
    return references("paper")


def check(folder: Path, sent: list[Any], reference: Reference) -> None:
    """Check that an acknowledged or newer checkpoint loads and equals the reference's, and that `resume` ends alike."""
    acknowledged = [step for what, step in sent if what == "saved"]
    found = durable.newest_checkpoint(folder / "run/checkpoints")
    step = found.manifest["timestep"]
    assert step >= max(acknowledged)
    assert found.skipped == ()
    assert runs.fingerprint(found.path) == reference.hashes[step]
    stored = durable.read_tensors(found.path / checkpoint.REPLAY, ("rows", "blocks."))
    assert sum(array.nbytes for array in stored.values()) <= reference.config.mem_budget_bytes
    child = runs.start(folder / "log", runs.command, "resume", folder / "run")
    log = folder / "log"
    assert child.join() == 0, log.read_text()
    assert runs.fingerprint(runs.newest(folder / "run")) == reference.hashes[160]
    assert runs.results(folder / "run") == reference.results
    leftovers = [path.name for path in (folder / "run/checkpoints").iterdir() if not path.name.startswith("step_")]
    assert leftovers == []


# --- at random moments -------------------------------------------------------------------------------------


def kill_in(phase: str, folder: Path, reference: Reference, draw: random.Random) -> str | None:
    """Run one trial; return the phase in which the run was killed, or None where it had already ended."""
    folder.mkdir()
    child = runs.start(folder / "log", runs.train, reference.config, folder / "run", prepare=report)
    times, seconds = PHASES[phase]
    wanted, sent = draw.randrange(times) + (phase == "checkpoint"), []
    try:
        while True:
            sent.append(child.pipe.recv())
            if sent[-1] == ("begin", phase):
                if wanted == 0:
                    break
                wanted -= 1
        time.sleep(draw.random() * seconds)
        status = child.kill()
    except EOFError:
        status = child.join()
    sent += child.messages()
    if status == 0:
        return None
    assert status == -signal.SIGKILL, (folder / "log").read_text()
    check(folder, sent, reference)
    started = Counter(name for what, name in sent if what == "begin")
    ended = Counter(name for what, name in sent if what == "end")
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
CHUNKS = {"paper": 5, "compact": 12}
"""67 rows, 16 at a time. 91 rows, 8 at a time, the newest 3 first."""


def chunk_trial(number: int, act: Callable[[], None], folder: Path, reference: Reference) -> None:
    folder.mkdir(exist_ok=True)
    prepare = functools.partial(at_chunk, number, act)
    child = runs.start(folder / "log", runs.train, reference.config, folder / "run", prepare=prepare)
    status, log = child.join(), folder / "log"
    assert status == (75 if act is fail else -signal.SIGKILL), log.read_text()
    if act is fail:
        last = log.read_text().splitlines()[-1]
        assert "the conversion at step 90 failed: injected" in last
    assert durable.newest_checkpoint(folder / "run/checkpoints").manifest["timestep"] == FREEZE_AT
    check(folder, child.messages(), reference)


@CHUNK
@pytest.mark.parametrize(("store", "number", "act"), [("paper", 0, die), ("paper", 3, fail), ("compact", 6, die)])
def test_a_run_survives_the_end_of_its_conversion_at_a_chunk(
    store: str, number: int, act: Callable[[], None], references: Callable[[str], Reference], tmp_path: Path
) -> None:
    chunk_trial(number, act, tmp_path, references(store))


@pytest.mark.faults
@CHUNK
@pytest.mark.parametrize("act", [die, fail])
@pytest.mark.parametrize(
    ("store", "number"), [(store, number) for store, count in CHUNKS.items() for number in range(count)]
)
def test_a_run_survives_the_end_of_its_conversion_at_every_chunk(
    store: str, number: int, act: Callable[[], None], references: Callable[[str], Reference], tmp_path: Path
) -> None:
    chunk_trial(number, act, tmp_path, references(store))


def steps_of_a_save(save_at: int, folder: Path, config: TrainConfig) -> list[str]:
    folder.mkdir()
    prepare = functools.partial(at_step_of_a_save, 10**9, save_at)
    child = runs.start(folder / "log", runs.train, config, folder / "run", prepare=prepare)
    sent: list[Any] = []
    while ("saved", save_at) not in sent:
        sent.append(child.pipe.recv())
    child.kill()
    return [name for what, name in sent if what == "step"]


SAVE = pytest.mark.fault(
    "SIGKILL at each file system step of writing a checkpoint",
    promise="the old or the new checkpoint is sound; `resume` ends as the undisturbed run does, bit for bit",
)


def save_trial(number: int, save_at: int, folder: Path, reference: Reference) -> None:
    folder.mkdir(exist_ok=True)
    prepare = functools.partial(at_step_of_a_save, number, save_at)
    child = runs.start(folder / "log", runs.train, reference.config, folder / "run", prepare=prepare)
    assert child.join() == -signal.SIGKILL, (folder / "log").read_text()
    check(folder, child.messages(), reference)


@SAVE
@pytest.mark.parametrize("number", [90])
def test_killed_at_a_file_system_step_of_a_checkpoint_of_blocks(
    number: int, references: Callable[[str], Reference], tmp_path: Path
) -> None:
    save_trial(number, 120, tmp_path, references("compact"))


@SAVE
@pytest.mark.faults
@pytest.mark.parametrize("save_at", [40, 90, 120])
@pytest.mark.parametrize("store", CONFIGS)
def test_killed_at_every_file_system_step_of_a_checkpoint(
    store: str,
    save_at: int,
    references: Callable[[str], Reference],
    tmp_path: Path,
    record_property: Callable[[str, Any], None],
) -> None:
    reference = references(store)
    names = steps_of_a_save(save_at, tmp_path / "count", reference.config)
    assert {"_create", "_write", "_fsync", "_fsync_folder", "_rename", "_make_folder"} <= set(names)

    def trial(number: int) -> None:
        save_trial(number, save_at, tmp_path / str(number), reference)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(trial, range(len(names))))
    record_property("trials", len(names))
