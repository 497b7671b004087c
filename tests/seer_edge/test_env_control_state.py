"""Saved states of control tasks: a restored task continues bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.envs import EnvOptions, make_env
from seer_edge.envs.control import Control
from seer_edge.envs.control_tasks import TASKS
from seer_edge.envs.physics_state import MODEL_ARRAYS
from seer_runtime.system.state import State, StateError
from tests.seer_edge.env_twins import assert_continue_alike, changed, play, through_files

pytestmark = pytest.mark.integration

ALL_TASKS = [f"{domain}-{task}" for domain, tasks in TASKS.items() if domain != "lqr" for task in tasks]
FEW_TASKS = ["cartpole-swingup", "finger-turn_easy"]
END_STEPS = 5


def control(task: str, *, seed: int = 3, repeat: int = 4, steps_to_end: int | None = None) -> Control:
    """Build a task with frames of 25x25 whose episodes end after `steps_to_end` agent steps."""
    env = make_env(task, EnvOptions(resolution=25, action_repeat=repeat), seed=seed, training=True)
    assert isinstance(env, Control)
    if steps_to_end is not None:
        env._env._step_limit = repeat * steps_to_end
    return env


def assert_a_restored_twin_continues(task: str, lead: int, folder: Path) -> None:
    env = control(task, steps_to_end=END_STEPS)
    env.reset()
    play(env, np.random.default_rng(0), lead)
    twin = control(task, seed=99, steps_to_end=END_STEPS)
    if lead % 2:  # restore into an environment that has been used
        twin.reset()
        play(twin, np.random.default_rng(1), 3)
    twin.restore(through_files(env.state(), folder))
    np.testing.assert_array_equal(env._frame(), twin._frame())
    steps = assert_continue_alike(env, twin, 2 * END_STEPS + 3)
    assert sum(step.episode is not None for step in steps) >= 2
    np.testing.assert_array_equal(env._env.physics.get_state(), twin._env.physics.get_state())
    env.close()
    twin.close()


@pytest.mark.parametrize("task", FEW_TASKS)
def test_a_restored_task_continues_across_episodes(task: str, tmp_path: Path) -> None:
    assert_a_restored_twin_continues(task, END_STEPS + 3, tmp_path)


@pytest.mark.parametrize(
    "lead",
    [
        *(0, END_STEPS - 1),
        *(pytest.param(number, marks=pytest.mark.slow) for number in (1, END_STEPS, END_STEPS + 2)),
    ],
)
def test_a_task_can_be_saved_at_any_step(lead: int, tmp_path: Path) -> None:
    assert_a_restored_twin_continues("walker-walk", lead, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", ALL_TASKS)
def test_every_restored_task_continues(task: str, tmp_path: Path) -> None:
    assert_a_restored_twin_continues(task, END_STEPS + 4, tmp_path)


def test_a_task_can_be_saved_before_and_after_an_episode(tmp_path: Path) -> None:
    env = control("reacher-easy", steps_to_end=3)
    for _ in range(2):
        twin = control("reacher-easy", seed=9, steps_to_end=3)
        twin.restore(through_files(env.state(), tmp_path))
        with pytest.raises(RuntimeError, match="reset the environment"):
            twin.step(np.zeros(2, np.float32))
        np.testing.assert_array_equal(env.reset(), twin.reset())
        while env.step(np.ones(2, np.float32)).episode is None:
            pass


def test_saving_does_not_change_the_trajectory() -> None:
    env, unsaved = control("cheetah-run"), control("cheetah-run")
    env.reset()
    unsaved.reset()
    actions = np.random.default_rng(0)
    for _ in range(20):
        env.state()
        action = env.spec.actions.sample(actions)
        step, other = env.step(action), unsaved.step(action)
        assert step.reward == other.reward
        np.testing.assert_array_equal(step.frame, other.frame)


def _model_arrays(env: Control) -> dict[str, Any]:
    model = env._env.physics.model.ptr
    names = [name for name in dir(model) if not name.startswith("_")]
    return {name: getattr(model, name) for name in names if isinstance(getattr(model, name), np.ndarray)}


def assert_only_saved_model_arrays_change(task: str) -> None:
    env = control(task, steps_to_end=2)
    watched = {name: array.copy() for name, array in _model_arrays(env).items() if name not in MODEL_ARRAYS}
    assert len(watched) > 100
    for _ in range(3):
        env.reset()
        play(env, np.random.default_rng(0), 1)
    now = _model_arrays(env)
    assert [name for name, array in watched.items() if not np.array_equal(array, now[name])] == []
    env.close()


@pytest.mark.parametrize("task", FEW_TASKS)
def test_episodes_change_only_the_saved_model_arrays(task: str) -> None:
    assert_only_saved_model_arrays_change(task)


@pytest.mark.slow
@pytest.mark.parametrize("task", ALL_TASKS)
def test_episodes_change_only_the_saved_model_arrays_in_every_task(task: str) -> None:
    assert_only_saved_model_arrays_change(task)


@pytest.fixture(scope="module")
def saved() -> State:
    env = control("finger-turn_hard")
    env.reset()
    play(env, np.random.default_rng(0), 2)
    return env.state()


@pytest.fixture(scope="module")
def twins() -> tuple[Control, Control]:
    """Two environments that have made the same steps."""
    return control("finger-turn_hard", seed=4), control("finger-turn_hard", seed=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", "dm_control/finger-turn_easy-v0"),
        ("stepping", "yes"),
        ("length_steps", -1),
        ("return", float("inf")),
        ("step_count", 1.0),
        ("reset_next_step", None),
        ("random_position", 625),
        ("random_has_gauss", 2),
        ("random_gauss", float("nan")),
        ("random", np.zeros(623, np.uint32)),
        ("random", np.zeros(624, np.int32)),
        ("physics", np.zeros(38)),
        ("physics", np.full(39, np.nan)),
        ("physics", None),
        ("model/site_pos", np.zeros((1, 3))),
        ("model/dof_damping", np.zeros(3, np.float32)),
        ("model/dof_damping", np.full(3, np.inf)),
        ("model/site_size", None),
    ],
)
def test_invalid_states_are_rejected_and_change_nothing(
    name: str, value: Any, saved: State, twins: tuple[Control, Control]
) -> None:
    env, untouched = twins
    with pytest.raises(StateError):
        env.restore(changed(saved, name, value))
    np.testing.assert_array_equal(env.reset(), untouched.reset())
    assert_continue_alike(env, untouched, 2)
