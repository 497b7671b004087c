"""The engine that runs commands in a Ray cluster, here a real one of this machine."""

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from seer_edge.errors import BadInputError
from seer_edge.sweeps.engine import Running, Task
from seer_edge.sweeps.ray_engine import RayEngine
from tests.ray_cluster import ray_cluster

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    with ray_cluster() as address:
        engine = RayEngine(address, jobs=None)
        yield engine
        engine.close()


def _end(running: Running) -> int:
    until = time.monotonic() + 120
    while (status := running.status()) is None:
        assert time.monotonic() < until
        time.sleep(0.1)
    return status


@pytest.mark.integration
def test_commands_run_with_their_status_and_their_output_in_the_log(engine: RayEngine, tmp_path: Path) -> None:
    good = engine.start(Task(["--version"], tmp_path / "good", 300 * MEGABYTE, 1))
    bad = engine.start(Task(["plan", "--env", "Nothing"], tmp_path / "bad", 300 * MEGABYTE, 1))
    assert (_end(good), _end(bad)) == (0, 2)
    assert (tmp_path / "good").read_text().startswith("seer-edge ")
    assert "Nothing" in (tmp_path / "bad").read_text()


@pytest.mark.integration
def test_short_runs_write_where_the_nodes_find_the_sweep(engine: RayEngine, tmp_path: Path) -> None:
    assert engine.scratch(tmp_path / "new" / "sweep") == tmp_path
    assert engine.scratch(tmp_path) == tmp_path


@pytest.mark.integration
def test_a_log_may_have_a_relative_path_and_gets_the_errors_of_the_cluster(
    engine: RayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _end(engine.start(Task(["--version"], Path("good"), 300 * MEGABYTE, 1))) == 0
    assert Path("good").read_text().startswith("seer-edge ")
    lost = engine.start(Task(["\0"], Path("lost"), 300 * MEGABYTE, 1))
    assert _end(lost) == 1
    assert "embedded null byte" in Path("lost").read_text()


@pytest.mark.integration
def test_a_stopped_command_gets_sigterm_and_so_does_one_that_waits(engine: RayEngine, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "--env", "Alien", "--mem-budget", "1MB", "--total-timesteps", "100000", "--run-dir", str(run)]
    running = engine.start(Task(words, tmp_path / "log", 300 * MEGABYTE, 2))
    waiting = engine.start(Task(["doctor"], tmp_path / "late", 300 * MEGABYTE, 2))
    until = time.monotonic() + 300
    while not (run / "progress.csv").exists():
        assert running.status() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    waiting.stop()
    running.stop()
    assert _end(running) == 128 + signal.SIGTERM
    assert list((run / "checkpoints").glob("step_*"))
    assert _end(waiting) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    assert (tmp_path / "late").read_text() == ""


@pytest.mark.integration
def test_a_task_that_no_node_could_run_is_refused(engine: RayEngine, tmp_path: Path) -> None:
    assert engine.has_room(Task([], tmp_path, MEGABYTE, 2), [])
    for task in (Task([], tmp_path, MEGABYTE, 3), Task([], tmp_path, 10**15, 1)):
        with pytest.raises(BadInputError, match="--engine ray: no node has"):
            engine.has_room(task, [])
    assert engine.slots(1, MEGABYTE) == 2
    assert engine.slots(2, MEGABYTE) == 1


def test_an_address_that_does_not_answer_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        silent = f"127.0.0.1:{free.getsockname()[1]}"
        for address in (silent, "127.0.0.1:99999"):
            with pytest.raises(BadInputError, match=f"--ray-address {address}: no cluster answers") as refused:
                RayEngine(address, None)
            assert "\n" not in str(refused.value)
    for address in ("nothing", ":3", "host:", "host:-1"):
        with pytest.raises(BadInputError, match="not HOST:PORT"):
            RayEngine(address, None)


def test_a_dead_cluster_of_this_machine_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        began = time.monotonic()
        with pytest.raises(BadInputError, match=f"--ray-address [0-9.]+:{port}: no cluster answers"):
            RayEngine("auto", None)
        assert time.monotonic() - began < 30
    monkeypatch.setenv("RAY_ADDRESS", "ray://somewhere")
    with pytest.raises(BadInputError, match="not HOST:PORT"):
        RayEngine("auto", None)
