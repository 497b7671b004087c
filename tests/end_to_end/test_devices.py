"""Environments that can be opened once, that never end, or that change: evaluation, `export`, `plan` and `resume`."""

import csv
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import seer_edge.envs.games
from seer_edge.runs import run_folder
from tests.end_to_end.short_presets import Run, runner
from tests.faults import runs

DEVICES = "tests.end_to_end.device_envs"
SHORT = ("--total-timesteps", "75", "--freeze-at", "30", "--mem-budget", "300kB", "--eval-episodes", "2")
SMALL = ("hidden=16", "batch_size=8", "learning_starts=20")
SETS = tuple(word for setting in SMALL for word in ("--set", setting))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("ONE_CAMERA", str(tmp_path / "video0"))
    return runner(monkeypatch, capsys)


def _train(run: Run, env: str, folder: Path, *flags: str) -> tuple[int, str, str]:
    return run("train", "--env", f"{DEVICES}:{env}", *SHORT, *SETS, "--run-dir", folder, *flags)


@contextmanager
def _camera_in_use() -> Iterator[None]:
    device = os.open(os.environ["ONE_CAMERA"], os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(device)


def _summary(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "summary.json").read_text()))


def _evaluated_at(folder: Path) -> list[int]:
    with (folder / "progress.csv").open() as lines:
        return [int(row["time/total_timesteps"]) for row in csv.DictReader(lines) if row["eval/mean_reward"]]


def test_a_camera_that_opens_once_trains_evaluates_exports_and_plans(run: Run, tmp_path: Path) -> None:
    folder, bundle = tmp_path / "run", tmp_path / "policy.seer"
    status, printed, error = _train(run, "OneCamera-v0", folder, "--eval-every", "20")
    assert status == 0, error
    assert "in the training environment, between episodes: 2 episodes of at most 27,000 steps" in printed
    assert "evaluation at step 25: 2 episodes of at most 27,000 steps, at most 54,000 steps" in error
    # Episodes have 25 steps: each evaluation waits for the end of one. The last one cuts nothing here.
    assert _evaluated_at(folder) == [25, 50, 75]
    assert _summary(folder)["status"] == "finished"
    with _camera_in_use():
        status, _, error = run("export", folder, "-o", bundle)
        assert status == 0, error
        status, again, error = run("plan", folder)
        assert status == 0, error
        assert "the replay holds latents only" in again
        of_frames = ("(C_hat)", "workspace", "columns", "activations", "process", "anonymous")  # no longer needed
        other = ("memory of", "run folder", *of_frames)
        kept = [
            [line for line in plan.splitlines() if not any(map(line.__contains__, other))] for plan in (again, printed)
        ]
        assert kept[0] == kept[1]
        assert len(kept[0]) > 15
        assert run("eval", folder)[0] != 0
    status, printed, error = run("eval", folder, "--json")
    assert status == 0, error
    assert json.loads(printed)["returns"] == [25.0, 25.0]
    assert run("act", bundle, "--episodes", "1")[0] == 0


def test_an_evaluation_at_the_end_cuts_the_last_episode(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, _, error = _train(run, "OneCamera-v0", folder, "--total-timesteps", "60")
    assert status == 0, error
    assert _evaluated_at(folder) == [60]
    episodes = (folder / "episodes.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in episodes] == [["25", "25", "25"], ["50", "25", "25"]]
    status, _, error = run("resume", folder, "--total-timesteps", "100")
    assert status == 0, error
    assert _evaluated_at(folder) == [60, 100]
    # The episode of steps 51 to 60 was cut, and the next one began with step 61.
    last = (folder / "episodes.csv").read_text().splitlines()[-1]
    assert last.split(",")[:3] == ["85", "25", "25"]


def test_without_evaluations_a_run_finishes_and_stays_finished(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, printed, error = _train(run, "OneCamera-v0", folder, "--eval-every", "never")
    assert status == 0, error
    assert "evaluation" in printed
    assert (_summary(folder)["status"], _summary(folder)["eval"], _evaluated_at(folder)) == ("finished", None, [])
    status, printed, error = run("resume", folder)
    assert status == 0, error
    assert "finished at step 75" in printed
    status, _, error = run("resume", folder, "--eval-every", "75")
    assert status == 0, error
    assert _summary(folder)["eval"] is not None


def test_a_run_that_cannot_open_a_second_environment_resumes_in_its_own(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, _, error = _train(run, "OneCamera-v0", folder, "--eval-in", "separate")
    assert status == 75
    assert "Device or resource busy" in error
    status, _, error = run("resume", folder, "--eval-in", "training")
    assert status == 0, error
    assert _evaluated_at(folder) == [75]


def test_an_endless_episode_is_announced_reported_and_cut(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seer_edge.envs.games, "REPORT_SECONDS", 0.0)
    folder = tmp_path / "run"
    status, printed, error = _train(run, "Endless-v0", folder, "--eval-max-steps", "40")
    assert status == 0, error
    assert "2 episodes of at most 40 steps, at most 80 steps" in printed
    assert "played 1 of 2 episodes, and 3 of at most 40 steps of the next one" in error
    assert _summary(folder)["eval"] == {
        "episodes": 2,
        "mean_return": 40.0,
        "std_return": 0.0,
        "returns": [40.0, 40.0],
    }
    status, printed, error = run("eval", folder, "--max-steps", "7", "--json")
    assert status == 0, error
    assert json.loads(printed)["returns"] == [7.0, 7.0]
    assert run("export", folder, "-o", tmp_path / "policy.seer")[0] == 0
    status, printed, error = run("act", tmp_path / "policy.seer", "--episodes", "1", "--json")
    assert status == 0, error
    assert json.loads(printed)["steps"] == 40
    assert "played 0 of 1 episodes, and 3 of at most 40 steps" in error


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "N_ACTIONS",
            "5",
            "it had 3 actions and frames of 42x42 when the run began, and has 5 actions and frames of 42x42 now",
        ),
        (
            "SIDE",
            "50",
            "it had 3 actions and frames of 42x42 when the run began, and has 3 actions and frames of 50x50 now",
        ),
    ],
)
def test_resume_names_actions_and_frames_of_a_changed_environment(
    variable: str, value: str, message: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert _train(run, "Changes-v0", folder)[0] == 0
    monkeypatch.setenv(variable, value)
    for command in (("resume", folder, "--total-timesteps", "80"), ("eval", folder)):
        status, _, error = run(*command)
        assert status == 2
        assert message in error
        assert "change it back, or start a new run" in error


def test_a_run_ends_once_it_reaches_the_wanted_return(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    flags = ("--eval-every", "20", "--stop-at-return", "25")
    status, printed, error = _train(run, "Device-v0", folder, *flags)
    assert status == 0, error
    assert "the run ends at a mean return of 25" in printed
    assert "reached --stop-at-return 25; the run ends here" in error
    assert (_summary(folder)["status"], _summary(folder)["timesteps"]) == ("finished", 25)
    assert "finished at step 25" in run("resume", folder)[1]
    status, _, error = run("resume", folder, "--stop-at-return", "never")
    assert status == 0, error
    assert _summary(folder)["timesteps"] == 75


def test_the_best_policy_is_kept_evaluated_and_exported(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    status, printed, error = _train(run, "Device-v0", folder, "--eval-every", "20", "--keep-best")
    assert status == 0, error
    assert "and the best without its replay" in printed
    # Every evaluation returns 25, so the first one stays the best.
    assert _summary(folder)["best"] == {"timestep": 25, "mean_return": 25.0}
    assert [path.name for path in (folder / "best").iterdir()] == ["step_0000000025"]
    status, printed, error = run("eval", folder, "--best", "--json")
    assert (status, json.loads(printed)["timestep"]) == (0, 25), error
    status, printed, error = run("export", folder, "--best", "-o", tmp_path / "best.seer")
    assert status == 0, error
    assert "step 25" in printed
    status, _, error = run("export", folder, "--best", "--with", "replay", "-o", tmp_path / "no.seer")
    assert status == 2
    assert "the best checkpoint has no replay" in error
    other = tmp_path / "other"
    assert _train(run, "Device-v0", other)[0] == 0
    status, _, error = run("eval", other, "--best")
    assert status == 2
    assert "has no best checkpoint; train with --keep-best" in error


def test_rows_and_events_are_written_where_and_when_asked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    flags = ("--log-every", "10", "--tensorboard-dir", "events")
    status, _, error = _train(run, "Device-v0", folder, *flags)
    assert status == 0, error
    with (folder / "progress.csv").open() as lines:
        assert [int(row["time/total_timesteps"]) for row in csv.DictReader(lines)] == [*range(10, 80, 10), 75]
    assert not (folder / "tb").exists()
    assert [path.parent for path in Path("events").rglob("events.out.*")] == [Path("events/run")]
    Path("file").touch()
    status, _, error = _train(run, "Device-v0", tmp_path / "other", "--tensorboard-dir", "file")
    assert status == 2
    assert "--tensorboard-dir" in error
    assert "not a folder" in error


@pytest.mark.parametrize("flags", [("--stop-at-return", "5"), ("--keep-best",)])
def test_settings_that_need_evaluations_refuse_a_run_without(flags: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    status, _, error = _train(run, "Device-v0", tmp_path / "run", "--eval-every", "never", *flags)
    assert status == 2
    assert f"{flags[0]}" in error
    assert "needs evaluations" in error


def test_plan_accepts_a_run_or_an_environment(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert _train(run, "Device-v0", folder)[0] == 0
    status, _, error = run("plan", folder, "--mem-budget", "1MB")
    assert (status, "--mem-budget: cannot be given with a run" in error) == (2, True)
    status, _, error = run("plan")
    assert (status, "--env" in error) == (2, True)


def test_unclipped_rewards_are_planned_and_an_exploding_loss_is_reported(run: Run, tmp_path: Path) -> None:
    status, printed, error = _train(
        run, "HugeRewards-v0", tmp_path / "run", "--resolution", "25", "--algo", "sac", "--set", "random_steps=8"
    )
    assert status == 0, error
    assert "not clipped; scale them to about 1 a step, or clip them with --set reward_clip=1" in printed
    assert error.count("so the agent probably learns nothing; scale the rewards") == 1
    status, printed, error = _train(
        run,
        "HugeRewards-v0",
        tmp_path / "clipped",
        "--resolution",
        "25",
        "--set",
        "reward_clip=1",
        "--set",
        "random_steps=8",
    )
    assert status == 0, error
    assert "clipped to [-1, 1] for learning" in printed
    assert "probably learns nothing" not in error


def test_a_linked_checkpoints_folder_is_refused_with_a_hint(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert _train(run, "Device-v0", folder)[0] == 0
    (folder / "checkpoints").rename(tmp_path / "disk")
    (folder / "checkpoints").symlink_to(tmp_path / "disk")
    for command in ("resume", "eval"):
        status, _, error = run(command, folder)
        assert status == 2
        assert f"{folder}/checkpoints: is a symbolic link; move the folder that it points to back here" in error
        assert "start a new one" not in error


def test_runs_of_the_same_second_get_separate_folders(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda layout: "20260101-000000")
    words = ("train", "--env", f"{DEVICES}:Device-v0", *SHORT, *SETS, "--eval-every", "never")
    for _ in range(3):
        status, _, error = run(*words)
        assert status == 0, error
    name = "Device-v0__rainbow__0__20260101-000000"
    assert sorted(path.name for path in Path("runs").iterdir()) == [name, f"{name}-2", f"{name}-3"]


def test_a_default_folder_that_another_run_creates_first_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    default_path = run_folder.default_path
    calls: list[Path] = []

    def racing(config: object) -> Path:
        path = default_path(config)  # type: ignore[arg-type]
        if not calls:
            path.mkdir(parents=True)
        calls.append(path)
        return path

    monkeypatch.setattr(run_folder, "default_path", racing)
    folder = run_folder.create_default(runs.alien())
    assert (len(calls), folder.path) == (2, calls[1])
    assert calls[0] != calls[1]
