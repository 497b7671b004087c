"""Running the jobs of a sweep: what is started, resumed or refused, and at which priority."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from seer_edge.api.sweeps import sweep
from seer_edge.errors import BadInputError
from seer_edge.sweeps.engine import LocalEngine, Task
from seer_edge.sweeps.runner import Need, Progress, Runner, check_forks, record_jobs
from seer_edge.sweeps.spec import Job, jobs_of
from seer_runtime.durable.lock import FolderLock


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_sweep_with_too_many_runs_is_refused(dry_run: bool, tmp_path: Path) -> None:
    settings = {"mem_budget": "1MB", "tensorboard_dir": "x" * 200}
    spec = {"envs": ["Alien"], "seeds": [*range(4000)], "settings": settings}
    with pytest.raises(BadInputError, match=r"sweep.json would have .* make several sweeps with fewer runs$"):
        sweep(spec, tmp_path / "sweep", dry_run=dry_run)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_settings_differ_or_are_unknown_is_refused(tmp_path: Path) -> None:
    (job,) = jobs_of({"envs": ["Alien"], "seeds": [0], "settings": {"mem_budget": "1MB"}})
    (other,) = jobs_of({"envs": ["Alien"], "seeds": [0], "settings": {"mem_budget": "2MB"}})
    record_jobs(tmp_path, [job])
    (tmp_path / job.name).mkdir()
    record_jobs(tmp_path, [job])
    line = rf"{job.name} was started with other settings \(mem_budget was 1MB, now 2MB\); name another folder with -o"
    with pytest.raises(BadInputError, match=line):
        record_jobs(tmp_path, [other])
    for foreign in (3, [], {"seed": 0}, {"options": 3}):
        (tmp_path / "sweep.json").write_text(json.dumps({job.name: foreign}))
        with pytest.raises(BadInputError, match=r"sweep\.json: cannot be used .*; name another folder with -o"):
            record_jobs(tmp_path, [job])
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(BadInputError, match=f"{job.name} are unknown, because sweep.json lacks it; put that file back"):
        record_jobs(tmp_path, [job])
    (tmp_path / "sweep.json").unlink()
    with pytest.raises(BadInputError, match=r"because sweep\.json is missing; put that file back, or name another"):
        record_jobs(tmp_path, [job])
    assert not (tmp_path / "sweep.json").exists()


def test_the_settings_of_a_job_may_change_until_a_run_has_begun_from_it(tmp_path: Path) -> None:
    def described(budget: str, at: int) -> list[Job]:
        variants = {"base": {}, "late": {"fork": "base", "at": at}}
        return jobs_of({"envs": ["Alien"], "settings": {"mem_budget": budget}, "variants": variants})

    base, late = described("1MB", 40)
    record_jobs(tmp_path, [base, late])
    record_jobs(tmp_path, described("2MB", 50))  # after a mistake, before anything has begun
    (tmp_path / base.name).mkdir()
    record_jobs(tmp_path, described("2MB", 60))
    assert json.loads((tmp_path / "sweep.json").read_text())[late.name]["at"] == 60
    (tmp_path / late.name).mkdir()
    with pytest.raises(BadInputError, match=rf"{late.name} was started with other settings \(at was 60, now 70\)"):
        record_jobs(tmp_path, described("2MB", 70))
    (tmp_path / base.name).rmdir()
    with pytest.raises(BadInputError, match=f"{base.name} was started with other settings"):
        record_jobs(tmp_path, described("3MB", 60))


def test_a_dry_run_refuses_settings_that_the_sweep_would_refuse(tmp_path: Path) -> None:
    def described(steps: int) -> dict[str, Any]:
        return {"envs": ["Alien"], "settings": {"mem_budget": "1MB", "total_timesteps": steps}}

    (job,) = jobs_of(described(300))
    record_jobs(tmp_path, [job])
    (tmp_path / job.name).mkdir()
    (tmp_path / job.name / "summary.json").write_text('{"status": "finished", "timesteps": 300}')
    with pytest.raises(BadInputError, match=r"other settings \(total_timesteps was 300, now 400\)"):
        sweep(described(400), tmp_path, dry_run=True)
    assert sweep(described(300), tmp_path, dry_run=True).hours == 0


def test_a_fork_at_a_step_that_its_parent_has_passed_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    def described(at: int) -> dict[str, Any]:
        settings = {"mem_budget": "1MB", "total_timesteps": 300, "freeze_at": 120}
        return {"envs": ["Alien"], "settings": settings, "variants": {"base": {}, "late": {"fork": "base", "at": at}}}

    base, late = jobs_of(described(100))
    for step in (0, 120, 250):
        (tmp_path / base.name / "checkpoints" / f"step_{step:010}").mkdir(parents=True)
    line = (
        rf"{late.name} forks at 100, but {base.name} has passed that step and has only the checkpoints of 0, 120, 250"
    )
    with pytest.raises(BadInputError, match=line):
        sweep(described(100), tmp_path)
    assert not (tmp_path / "sweep.json").exists()
    for at in (120, 250, 280):  # kept, newest, not reached
        check_forks(tmp_path, jobs_of(described(at)))
    (tmp_path / late.name).mkdir()
    check_forks(tmp_path, [base, late])  # it has begun


def test_a_run_that_outlives_its_sweep_counts_as_running(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    jobs = jobs_of({"envs": ["Alien"], "seeds": [0, 1], "settings": {"mem_budget": "1MB"}})
    (tmp_path / jobs[0].name).mkdir()
    needs = {job.name: Need(10**6, 1, 100) for job in jobs}
    runner, seen = Runner(tmp_path, jobs, needs, LocalEngine(1, 10**7)), list[Progress]()
    lock = FolderLock(tmp_path / jobs[0].name)
    runner.run(lambda: len(seen) >= 2, seen.append)
    lock.release()
    assert [progress.running for progress in seen[:2]] == [1, 1]
    assert [path.name for path in tmp_path.iterdir()] == [jobs[0].name]  # the other one was not started
    line = f"{jobs[0].name}: trained by a process of an earlier call; waiting for it"
    assert [record.getMessage() for record in caplog.records] == [line]


def test_a_job_that_cannot_be_started_fails_and_the_sweep_goes_on(tmp_path: Path) -> None:
    jobs = jobs_of({"envs": ["Alien"], "seeds": [0, 1], "settings": {"mem_budget": "1MB"}})
    (tmp_path / "logs" / f"{jobs[0].name}.log").mkdir(parents=True)  # no file can be opened there
    (tmp_path / jobs[1].name).mkdir()
    (tmp_path / jobs[1].name / "summary.json").write_text('{"status": "finished"}')
    runner = Runner(tmp_path, jobs, {job.name: Need(10**6, 1, 100) for job in jobs}, LocalEngine(1, 10**7))
    runner.run(lambda: False)
    assert list(runner.failures) == [jobs[0].name]
    assert runner.failures[jobs[0].name].startswith("cannot be started ([Errno 21] Is a directory: ")
    assert runner.progress().finished == 1


def test_a_run_that_continues_keeps_the_checkpoints_of_forks_that_were_added_since(tmp_path: Path) -> None:
    started: list[Task] = []

    class Failing(LocalEngine):
        def start(self, task: Task) -> Any:
            started.append(task)
            raise OSError

    settings = {"mem_budget": "1MB", "keep_checkpoint": [20, 80]}
    forks = {"early": {"fork": "base", "at": 20}, "late": {"fork": "base", "at": 60}}
    jobs = jobs_of({"envs": ["Alien"], "settings": settings, "variants": {"base": {}, **forks}})
    run = tmp_path / jobs[0].name
    (run / "checkpoints" / "step_0000000030").mkdir(parents=True)
    Runner(tmp_path, jobs, {job.name: Need(10**6, 1, 100) for job in jobs}, Failing(1, 10**7)).run(lambda: False)
    words = ["resume", str(run), "--keep-checkpoint=60", "--keep-checkpoint=80", "--quiet"]
    assert [task.words for task in started] == [words]


def test_a_run_has_the_lowest_priority_within_its_session_and_among_sessions(tmp_path: Path) -> None:
    running = LocalEngine(jobs=1, memory_bytes=1_000).start(Task(["--version"], tmp_path / "log", 1, threads=1))
    process = Path(f"/proc/{running._child.pid}")
    os.kill(running._child.pid, signal.SIGSTOP)
    try:
        assert os.getpriority(os.PRIO_PROCESS, running._child.pid) == 19
        shares = process / "autogroup"  # not every kernel shares the processor between sessions
        assert not shares.exists() or shares.read_text().split()[-2:] == ["nice", "19"]
        assert os.getsid(running._child.pid) == running._child.pid
    finally:
        os.kill(running._child.pid, signal.SIGCONT)
    assert running._child.wait(60) == 0
    assert running.status() == 0
    assert (tmp_path / "log").read_text().startswith("seer-edge ")


def test_the_pool_keeps_to_cores_and_to_planned_memory(tmp_path: Path) -> None:
    task = Task(["train"], tmp_path / "log", rss_bytes=300, threads=1)
    two = LocalEngine(jobs=2, memory_bytes=1_000)
    assert two.has_room(task, [task])
    assert not two.has_room(task, [task, task])
    small = LocalEngine(jobs=9, memory_bytes=650)
    assert small.has_room(task, [task])
    assert not small.has_room(task, [task, task])
    assert small.slots(1, 300) == 2
    assert LocalEngine(jobs=9, memory_bytes=10).has_room(task, [])  # it runs alone
    assert not LocalEngine(jobs=None, memory_bytes=10**9).has_room(Task([], tmp_path, 1, threads=4_096), [task])
