"""Settings of forks: what they inherit from the parent, and what they may change."""

import csv
import shutil
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

import seer_edge
import seer_edge.training.freeze
import seer_edge.training.run
from seer_edge.api.forks import Beginning, config_of_fork
from seer_edge.config.config import TrainConfig
from seer_edge.config.request import ForkRequest
from seer_edge.errors import BadInputError
from seer_edge.runs import checkpoint
from seer_edge.training.freeze import FreezeRefusedError
from seer_edge.training.freeze_watch import FreezeWatch
from seer_runtime import durable
from seer_runtime.replay.replay import Replay
from tests.seer_edge.configs import atari_config, control_config

ENV = f"{__name__}:Noise"


class Noise(gymnasium.Env[NDArray[np.uint8], int]):
    """Random frames for ever."""

    observation_space = gymnasium.spaces.Box(0, 255, (36, 36), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def _frame(self) -> NDArray[np.uint8]:
        return self.np_random.integers(0, 256, (36, 36), np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        return self._frame(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        return self._frame(), 1.0, False, False, {}


def _train(run: Path, **options: Any) -> None:
    brief = {"batch_size": 4, "learning_starts": 10, "hidden": 8, "n_step": 2}
    given: Any = {"mem_budget": "1MB", "total_timesteps": 40, "eval_every": "never", "set": brief, **options}
    seer_edge.train(ENV, run_dir=run, **given)


def test_a_fork_that_never_freezes_drops_the_layers_that_its_parent_would_freeze() -> None:
    parent = control_config(total_timesteps=1_000, freeze_at=500, freeze_layers=2)
    begin = Beginning("RUN", parent, 400, None)
    fork = config_of_fork(begin, ForkRequest.of(freeze_at="never"))
    assert (fork.freeze_at, fork.freeze_layers) == (None, None)
    assert config_of_fork(begin, ForkRequest.of(freeze_at=600)).freeze_layers == 2


def test_a_fork_cannot_store_several_views_of_frames_that_are_not_cropped() -> None:
    begin = Beginning("RUN", atari_config(total_timesteps=1_000), 100, None)
    with pytest.raises(BadInputError, match=r"^--augmentations 4: Alien is not cropped; leave it out$"):
        config_of_fork(begin, ForkRequest.of(augmentations=4))
    assert config_of_fork(begin, ForkRequest.of(augmentations=1)).augmentations == 1


@pytest.mark.parametrize(
    ("parent", "name", "other"),
    [(atari_config, "noisy_sigma", "adam_epsilon"), (control_config, "initial_temperature", "target_tau")],
)
def test_a_fork_refuses_what_only_new_networks_depend_on(parent: Any, name: str, other: str) -> None:
    begin = Beginning("RUN", parent(total_timesteps=1_000), 100, None)
    line = f"--set {name}: is for new networks, and a fork has its parent's; leave it out"
    with pytest.raises(BadInputError, match=f"^{line}$"):
        config_of_fork(begin, ForkRequest.of(set={name: 0.2}))
    assert getattr(config_of_fork(begin, ForkRequest.of(set={other: 0.2})).settings, other) == 0.2


@pytest.mark.parametrize("given", [{}, {"set": {"gamma": 0.9}}])
def test_a_longer_fork_explores_no_more_than_its_parent(given: dict[str, Any]) -> None:
    """The epsilon of DQN falls in a fraction of the run: in 100 steps of 1,000."""
    begin = Beginning("RUN", atari_config(algo="dqn", total_timesteps=1_000), 500, None)
    fork = config_of_fork(begin, ForkRequest.of(total_timesteps=100_000, **given))
    assert _epsilons(fork) == pytest.approx([0.525, 0.05, 0.05])
    assert config_of_fork(begin, ForkRequest.of(**given)).schedule_timesteps is None


def test_only_runs_with_a_schedule_have_its_length() -> None:
    """Runs of one length and the same settings are one setting of a report, however they got that length."""
    for options, steps in (({}, None), ({"replay": "prioritized"}, 1_000), ({"algo": "dqn"}, 1_000)):
        parent = atari_config(total_timesteps=1_000, **options)
        longer = config_of_fork(Beginning("RUN", parent, 50, None), ForkRequest.of(total_timesteps=2_000))
        assert longer.schedule_timesteps == steps
        shorter = config_of_fork(Beginning("RUN", longer, 50, None), ForkRequest.of(total_timesteps=1_000))
        assert shorter.schedule_timesteps is None


def test_a_fork_of_a_longer_run_may_explore_for_another_part_of_the_first_length() -> None:
    parent = atari_config(algo="dqn", total_timesteps=1_000)
    longer = config_of_fork(Beginning("RUN", parent, 50, None), ForkRequest.of(total_timesteps=2_000))
    fork = config_of_fork(Beginning("RUN", longer, 50, None), ForkRequest.of(set={"exploration_fraction": 0.2}))
    assert _epsilons(fork) == pytest.approx([0.7625, 0.525, 0.05])


def _epsilons(config: TrainConfig) -> list[float]:
    settings = config.settings.for_run(config.schedule_steps)
    return [settings.epsilon(step) for step in (50, 100, 500)]


def test_a_fork_after_a_refused_freeze_needs_another_step() -> None:
    begin = Beginning("RUN", atari_config(total_timesteps=1_000, freeze_at=400), 500, None)
    line = "--latent-codec float16: the freeze at step 400 was refused, and the fork begins at step 500; give also"
    with pytest.raises(BadInputError, match=f"^{line} --freeze-at with that or a later step$"):
        config_of_fork(begin, ForkRequest.of(latent_codec="float16"))
    assert config_of_fork(begin, ForkRequest.of(latent_codec="float16", freeze_at=500)).freeze_at == 500
    assert config_of_fork(begin, ForkRequest.of(seed=7)).freeze_at == 400


@pytest.mark.integration
def test_a_longer_resumed_run_keeps_its_schedules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploration ends where it did, and the weights of prioritized replay stay at their last exponent."""
    _train(tmp_path / "run", algo="dqn", freeze_at="never", replay="prioritized")
    progress, sample = [], Replay.sample

    def sampled(replay: Replay, elapsed: float = 0.0, **given: Any) -> Any:
        progress.append(elapsed)
        return sample(replay, elapsed, **given)

    monkeypatch.setattr(Replay, "sample", sampled)
    seer_edge.resume(tmp_path / "run", total_timesteps=80)
    assert durable.read_json(tmp_path / "run" / "config.json")["schedule_timesteps"] == 40
    assert min(progress) >= 1


@pytest.mark.integration
def test_a_run_that_starts_again_with_another_length_has_the_schedules_of_that_length(tmp_path: Path) -> None:
    _train(tmp_path / "run", algo="dqn", freeze_at="never")
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as if it had been killed before the first one
    (tmp_path / "run" / "progress.csv").unlink()
    seer_edge.resume(tmp_path / "run", total_timesteps=80)
    config = checkpoint.newest(tmp_path / "run" / "checkpoints").config
    assert config.settings.for_run(config.schedule_steps).exploration_steps == 8


@pytest.mark.integration
def test_a_fork_tries_a_refused_freeze_again_only_if_it_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*unused: Any) -> float:
        raise FreezeRefusedError("the outputs differ")

    with monkeypatch.context() as patched:
        patched.setattr(seer_edge.training.freeze, "_compare", refuse)
        _train(tmp_path / "run", freeze_at=20, keep_checkpoint=[20])
    found = {}
    options: dict[str, Any] = {"plain": {}, "same": {"freeze_at": 20}, "codec": {"latent_codec": "uint8"}}
    for name, given in options.items():
        seer_edge.fork(tmp_path / "run", tmp_path / name, at=20, **given)
        seer_edge.resume(tmp_path / name)
        summary = durable.read_json(tmp_path / name / "summary.json")
        found[name] = summary["freeze_refused"] is not None, summary["freeze"] is not None
    assert found == {"plain": (True, False), "same": (False, True), "codec": (False, True)}


@pytest.mark.integration
def test_a_fork_replaces_what_a_killed_creation_left_behind(tmp_path: Path) -> None:
    _train(tmp_path / "run", freeze_at="never")
    (tmp_path / "fork").mkdir()
    (tmp_path / "fork" / ".config.json.0123abcd.tmp").write_text("{")
    forked = seer_edge.fork(tmp_path / "run", tmp_path / "fork", total_timesteps=50)
    assert seer_edge.resume(forked.folder).timestep == 50


@pytest.mark.integration
def test_a_fork_with_longer_windows_begins_to_compare_anew(tmp_path: Path) -> None:
    _train(tmp_path / "run", freeze_at="auto", total_timesteps=100, keep_checkpoint=[25])
    fork = seer_edge.fork(tmp_path / "run", tmp_path / "fork", at=25, freeze_at="auto", total_timesteps=200)
    assert (fork.plan.config.freeze_window, fork.plan.config.freeze_at) == (10, 100)
    seer_edge.resume(fork.folder)
    with (fork.folder / "progress.csv").open() as file:
        compared = [int(row["time/total_timesteps"]) for row in csv.DictReader(file) if row["seer/similarity"]]
    assert [step for step in compared if step > 25][:2] == [40, 50]  # the first reference is that of step 30


@pytest.mark.integration
@pytest.mark.parametrize("total", [20, 40])
def test_a_kept_checkpoint_of_the_freeze_stays_that_before_it(
    total: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends at the step of its freeze, or is stopped there, saves once more at that step."""
    compare = seer_edge.training.freeze._compare

    def stopped(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return compare(*arguments)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        if total > 20:
            patched.setattr(seer_edge.training.freeze, "_compare", stopped)
        _train(run, freeze_at=20, keep_checkpoint=[20], total_timesteps=total)
    assert durable.read_json(run / "summary.json")["status"] == ("finished" if total == 20 else "interrupted")
    fork = seer_edge.fork(run, tmp_path / "fork", at=20, latent_codec="uint8", total_timesteps=40)
    for path in (run, fork.folder):
        seer_edge.resume(path)
        summary = durable.read_json(path / "summary.json")
        assert (summary["status"], summary["freeze"]["timestep"]) == ("finished", 20)


@pytest.mark.integration
@pytest.mark.parametrize("kept", [[], [20]])
def test_changed_settings_are_in_a_checkpoint_before_the_first_step(
    kept: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    _train(run, total_timesteps=20, freeze_at="never", keep_checkpoint=kept)
    monkeypatch.setattr(seer_edge.training.session.Session, "step", lambda *unused: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        seer_edge.resume(run, total_timesteps=40)
    monkeypatch.undo()
    assert seer_edge.resume(run).timestep == 40


@pytest.mark.integration
def test_the_row_of_an_automatic_freeze_is_complete_after_a_stop_in_its_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FreezeWatch, "is_settled", False)  # so that it freezes at the latest step, 50
    evaluate = seer_edge.training.run.evaluate_session

    def stopped(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments)

    run, brief = tmp_path / "run", {"eval_episodes": 1, "eval_max_steps": 5}
    with monkeypatch.context() as patched:
        patched.setattr(seer_edge.training.run, "evaluate_session", stopped)
        _train(run, freeze_at="auto", total_timesteps=100, eval_every=50, eval_in="separate", **brief)
    summary = durable.read_json(run / "summary.json")
    assert (summary["status"], summary["timesteps"], summary["freeze"]["timestep"]) == ("interrupted", 50, 50)
    seer_edge.resume(run)
    with (run / "progress.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["time/total_timesteps"] == "50")
    assert row["seer/similarity"]
    assert row["eval/mean_reward"]


@pytest.mark.integration
def test_an_evaluation_that_a_finished_run_is_asked_for_is_in_its_table(tmp_path: Path) -> None:
    run = tmp_path / "run"
    _train(run)
    seer_edge.resume(run, eval_every=20, eval_episodes=1, eval_max_steps=5, eval_in="separate")
    with (run / "progress.csv").open() as file:
        evaluated = [row for row in csv.DictReader(file) if row["eval/mean_reward"]]
    assert [row["time/total_timesteps"] for row in evaluated] == ["40"]
