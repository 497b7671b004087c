"""The cost of a sweep: measurements of short runs, and the estimated seconds of a run and of all runs."""

import dataclasses
import errno
import json
import os
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seer_edge.api.sweeps import estimate, plans_of
from seer_edge.errors import RunStoppedError
from seer_edge.reproduction.description import load
from seer_edge.sweeps.calibration import Calibration
from seer_edge.sweeps.cost import CHECKPOINT_BYTES_A_SECOND, Episodes, Rates, Speed, duration, kind_of
from seer_edge.sweeps.engine import LocalEngine, LocalProcess, Task
from seer_edge.sweeps.measurement import LearningSteps, play_seconds, rates_of
from seer_edge.sweeps.spec import Job, jobs_of

GOLDEN = Path(__file__).parents[1] / "golden" / "policy.seer"
RATES = Rates(start=5.0, acting=0.01, pixel=0.1, latent=0.04, freeze=2.0, evaluation=0.5, evaluation_step=0.005)
SPEC: dict[str, Any] = {
    "envs": ["Alien"],
    "settings": {
        "mem_budget": "1MB",
        "total_timesteps": 1_000,
        "eval_every": 250,
        "eval_episodes": 3,
        "set": {"learning_starts": 100},
    },
    "variants": {
        "seer": {"freeze_at": 400},
        "plain": {"freeze_at": "never"},
        "late": {"fork": "seer", "at": 600, "total_timesteps": 1_200},
    },
}


class NothingStarts(LocalEngine):
    """An engine that must not be used."""

    def start(self, task: Task) -> LocalProcess:
        raise AssertionError(task)


def rows_with(steps: LearningSteps, rates: Rates, before: float, length: int) -> list[dict[str, str]]:
    """Return the rows of a run with exactly these `rates`, and `before` seconds before its first step."""
    rows, now, frozen_at = [], before, steps.warm_up + steps.pixel
    for end in range(steps.interval, steps.total + 1, steps.interval):
        for step in range(end - steps.interval, end):
            now += rates.acting if step < steps.warm_up else rates.pixel if step < frozen_at else rates.latent
        now += rates.freeze if end == frozen_at and steps.pixel and steps.latent else 0.0
        last = end == steps.total
        now += rates.evaluation + length * rates.evaluation_step if last and length else 0.0
        shown = str(length) if last and length else ""
        rows.append({"time/total_timesteps": str(end), "time/time_elapsed": str(now), "eval/mean_ep_length": shown})
    return rows


@pytest.mark.parametrize("phases", [(24, 36), (24, 0), (0, 36)])
def test_the_rows_of_a_short_run_give_the_seconds_of_its_parts(phases: tuple[int, int]) -> None:
    steps = LearningSteps(6, 60, *phases)
    wanted = dataclasses.replace(
        RATES,
        pixel=RATES.pixel if phases[0] else 0.0,
        latent=RATES.latent if phases[1] else 0.0,
        freeze=RATES.freeze if all(phases) else 0.0,
        evaluation_step=RATES.acting,
    )
    rows = rows_with(steps, wanted, before=1.5, length=200)
    found = rates_of(rows, float(rows[-1]["time/time_elapsed"]) + 3.5, steps)
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(wanted))
    without = rates_of(rows_with(steps, wanted, before=1.5, length=0), 100.0, steps)
    assert (without.evaluation, without.evaluation_step) == (0, 0)


def test_the_seconds_of_a_run_are_the_sum_of_its_parts(tmp_path: Path) -> None:
    jobs = jobs_of(SPEC)
    plans = plans_of(jobs, "spec", tmp_path)
    speed = Speed(RATES, Episodes((500, 700)))
    evaluations = 4 * (0.5 + 3 * 600 * 0.005)
    steps = {"seer": 100 * 0.01 + 300 * 0.1 + 600 * 0.04, "plain": 100 * 0.01 + 900 * 0.1}
    for variant, freeze in (("seer", 2.0), ("plain", 0.0)):
        plan = plans["Alien", variant]
        found = speed.seconds(plan, 0)
        checkpoint = plan.checkpoint_bytes / CHECKPOINT_BYTES_A_SECOND  # the replay is full at the end
        if freeze:  # the conversion of a full replay, by its share of the multiply-adds
            freeze += plan.flops.conversion(400) / plan.flops.before_freeze * (0.1 - 0.01)
        assert found == pytest.approx(5 + steps[variant] + freeze + evaluations + checkpoint)
        longest = speed.seconds(plan, 0, longest=True)
        assert longest - found == pytest.approx(4 * 3 * (27_000 - 600) * 0.005)
    fork = speed.seconds(plans["Alien", "late"], 600)
    assert fork == pytest.approx(5 + 600 * 0.04 + 3 * (0.5 + 9) + checkpoint, rel=0.01)


def test_slower_steps_of_another_game_are_added() -> None:
    shifted = RATES.shifted(0.02)
    assert (shifted.acting, shifted.pixel, shifted.evaluation_step) == pytest.approx((0.03, 0.12, 0.025))
    assert (shifted.start, shifted.evaluation) == (5.0, 0.5)
    assert RATES.shifted(-1).acting == 0


@pytest.mark.parametrize(
    ("episodes", "limit", "mean", "longest", "text"),
    [
        (Episodes((100, 300), 50), 27_000, 200, 27_000, "about 200 steps, at most 27,000; measured: 2 with random"),
        (Episodes((100, 300), 900), 27_000, 1300 / 3, 27_000, "2 with random actions (100 to 300)"),
        (Episodes((100, 300), 0), 150, 125, 150, "about 125 steps, at most 150"),
        (Episodes((125, 125), 60), 27_000, 125, 125, "about 125 steps; measured: 2 with random actions"),
        (Episodes((), 400), 27_000, 1_000, 27_000, "about 1,000 steps, at most 27,000; measured: none with random"),
        (Episodes((), 4_000), 27_000, 8_000, 27_000, "none with random actions ended within 4,000"),
        (Episodes((), 400), 30, 30, 30, "about 30 steps; measured: none"),
    ],
)
def test_evaluation_episodes_are_as_long_as_those_with_random_actions(
    episodes: Episodes, limit: int, mean: float, longest: int, text: str
) -> None:
    assert episodes.mean(limit) == pytest.approx(mean)
    assert episodes.longest(limit) == longest
    assert text in episodes.describe(limit)


def test_steps_without_learning_are_timed_from_the_first_row() -> None:
    rows = [{"time/total_timesteps": "20", "time/time_elapsed": "3"}]
    assert play_seconds(rows) == 0.15
    assert play_seconds([*rows, {"time/total_timesteps": "60", "time/time_elapsed": "5"}]) == 0.05


def test_jobs_wait_for_a_place_and_for_those_that_they_need() -> None:
    seer, plain, late = sorted(jobs_of(SPEC), key=lambda job: job.variant, reverse=True)
    assert (seer.variant, plain.variant, late.variant) == ("seer", "plain", "late")
    seconds = {seer.name: 10.0, plain.name: 4.0, late.name: 3.0}
    jobs = [seer, late, plain]
    assert duration(jobs, seconds, 1) == 17
    assert duration(jobs, seconds, 2) == 13  # the fork begins when its parent ends
    assert duration([plain, seer], seconds, 2) == 10
    assert duration([], {}, 2) == 0


def test_eight_games_share_the_runs_that_learn(tmp_path: Path) -> None:
    jobs = load("table1").jobs(["Alien", "Krull", "Qbert"])
    plans = plans_of(jobs, "table1", tmp_path)
    found = Calibration(plans, jobs, LocalEngine(2, 10**9), tmp_path, ())
    assert list(found.learners.values()) == [("Alien", "rainbow-seer")]  # its first phase is that of "rainbow"
    assert [env for env, _ in found.players.values()] == ["Alien", "Krull", "Qbert"]


def test_agents_that_differ_in_an_update_are_measured_apart(tmp_path: Path) -> None:
    spec = {**SPEC, "variants": {"a": {}, "b": {"set": {"batch_size": 64}}, "c": {"latent_codec": "uint4"}, "d": {}}}
    jobs = jobs_of(spec)
    found = Calibration(plans_of(jobs, "spec", tmp_path), jobs, LocalEngine(2, 10**9), tmp_path, ())
    assert [variant for _, variant in found.learners.values()] == ["a", "b", "c"]
    assert len(found.players) == 1
    assert {kind_of(job)[1] for job in jobs} == {"a", "b", "c", "d"}


def test_an_estimate_covers_the_remaining_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = jobs_of({**SPEC, "seeds": [0, 1]})
    plans = plans_of(listed, "spec", tmp_path)
    speed = Speed(RATES, Episodes((200,)))

    def measure(_: object, jobs: Sequence[Job], *rest: object) -> dict[tuple[str, str], Speed]:
        return {kind_of(job): speed for job in jobs}

    monkeypatch.setattr("seer_edge.api.sweeps.measure", measure)
    for name, summary in {
        "Alien__seer__0": {"status": "finished", "timesteps": 1_000},
        "Alien__plain__0": {"status": "interrupted", "timesteps": 700},
        "Alien__late__1": {"status": "interrupted", "timesteps": 600},  # the fork started at this step
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    result = estimate(tmp_path, listed, plans, LocalEngine(1, 10**10))
    kinds = {job.name: plans[kind_of(job)] for job in listed}
    assert {job.name: job.seconds for job in result.jobs} == {
        "Alien__seer__0": 0.0,
        "Alien__seer__1": speed.seconds(kinds["Alien__seer__1"], 0),
        "Alien__plain__0": speed.seconds(kinds["Alien__plain__0"], 700),
        "Alien__plain__1": speed.seconds(kinds["Alien__plain__1"], 0),
        "Alien__late__0": speed.seconds(kinds["Alien__late__0"], 600),
        "Alien__late__1": speed.seconds(kinds["Alien__late__1"], 600),
    }
    assert result.hours == pytest.approx(sum(job.seconds or 0.0 for job in result.jobs) / 3600)


def test_an_estimate_of_a_finished_sweep_measures_nothing(tmp_path: Path) -> None:
    listed = jobs_of(SPEC)
    for job in listed:
        (tmp_path / job.name).mkdir()
        (tmp_path / job.name / "summary.json").write_text('{"status": "finished", "timesteps": 1200}')
    result = estimate(tmp_path, listed, plans_of(listed, "spec", tmp_path), NothingStarts(1, 10**10))
    assert result.hours == 0


def test_the_run_that_an_encoder_comes_from_is_measured_though_it_has_finished(tmp_path: Path) -> None:
    spec = {**SPEC, "variants": {"source": {"freeze_at": 400}, "moved": {"from": {"variant": "source"}}}}
    jobs = jobs_of(spec)
    moved = [job for job in jobs if job.variant == "moved"]
    found = Calibration(plans_of(jobs, "spec", tmp_path), moved, LocalEngine(2, 10**9), tmp_path, ())
    assert {variant for _, variant in found.learners.values()} == {"source", "moved"}


def test_a_calibration_that_cannot_be_started_is_reported_in_one_line(tmp_path: Path) -> None:
    class Full(LocalEngine):
        def start(self, task: Task) -> LocalProcess:
            raise OSError(errno.ENOSPC, "No space left on device")

    jobs = jobs_of({**SPEC, "variants": {"seer": {}}})
    with pytest.raises(RunStoppedError, match=r"^a calibration cannot be run \(.*No space left on device\); make room"):
        estimate(tmp_path, jobs, plans_of(jobs, "spec", tmp_path), Full(1, 10**10))


def test_short_runs_write_to_the_folder_that_the_engine_names(tmp_path: Path) -> None:
    class Elsewhere(LocalEngine):
        def scratch(self, folder: Path) -> Path:
            assert folder == tmp_path / "sweep"
            return tmp_path

        def start(self, task: Task) -> LocalProcess:
            assert task.log.is_relative_to(tmp_path)
            raise OSError

    jobs = jobs_of({**SPEC, "variants": {"seer": {}}})
    with pytest.raises(RunStoppedError):
        estimate(tmp_path / "sweep", jobs, plans_of(jobs, "spec", tmp_path), Elsewhere(1, 10**10))
    assert not list(tmp_path.iterdir())


def test_a_signal_while_short_runs_are_measured_stops_them_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[Path] = []

    class Endless:
        def __init__(self, task: Task) -> None:
            self.task = task

        def status(self) -> int | None:
            return 143 if self.task.log in stopped else None

        def stop(self) -> None:
            stopped.append(self.task.log)

    class Signalled(LocalEngine):
        def start(self, task: Task) -> Any:
            os.kill(os.getpid(), signal.SIGTERM)
            return Endless(task)

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    jobs = jobs_of({**SPEC, "variants": {"seer": {}}})
    result = estimate(tmp_path / "sweep", jobs, plans_of(jobs, "spec", tmp_path), Signalled(1, 10**10))
    assert (result.signal, result.estimate, len(stopped)) == (signal.SIGTERM, None, 1)
    assert not list(tmp_path.iterdir())


def test_the_short_runs_of_an_imported_encoder_do_not_freeze(tmp_path: Path) -> None:
    """The command refuses `--freeze-at` beside `--from`. A run that plays does not need the encoder."""
    given = {"from": str(GOLDEN), "take": "encoder"}
    jobs = jobs_of(
        {"envs": ["Breakout"], "settings": {"mem_budget": "70MB", "total_timesteps": 3_000}, "variants": {"a": given}}
    )
    found = Calibration(plans_of(jobs, "spec", tmp_path), jobs, LocalEngine(2, 10**9), tmp_path, ())
    ((_, kind),) = found.learners.items()
    flags = {word.partition("=")[0] for word in found._learning(kind).task.words}
    assert ({"--from", "--take"} <= flags, "--freeze-at" in flags) == (True, False)
    flags = {word.partition("=")[0] for word in found._playing(kind).task.words}
    assert not flags & {"--from", "--take"}
