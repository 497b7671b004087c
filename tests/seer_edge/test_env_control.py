"""Control tasks compared with bare dm_control."""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_edge.envs import (
    Continuous,
    EnvOptions,
    EnvSpec,
    Episode,
    ResolutionError,
    UnavailableEnvError,
    UnsupportedEnvError,
    make_env,
    resolve,
)
from seer_edge.envs.control import Control
from seer_edge.envs.control import _camera as rendering_camera
from seer_edge.envs.rendering import load_suite
from tests.seer_edge.env_registry import fresh

pytestmark = pytest.mark.integration

SUITE = load_suite()


@contextmanager
def control(task: str, *, seed: int = 3, **options: int) -> Iterator[Control]:
    env = make_env(task, EnvOptions(**options), seed=seed, training=True)  # type: ignore[arg-type]
    assert isinstance(env, Control)
    yield env
    env.close()


def bare(domain: str, task: str, *, seed: int = 3) -> Any:
    return SUITE.load(domain, task, task_kwargs={"random": seed})


def seen(env: Any, size: int, camera: int | str = 0) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = env.physics.render(height=size, width=size, camera_id=camera)
    return pixels.transpose(2, 0, 1)


def actions_of(size: int, steps: int, seed: int = 0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [Continuous(size).sample(rng) for _ in range(steps)]


@contextmanager
def no_rendering(env: Control) -> Iterator[None]:
    """Context manager: replace the camera by one that renders nothing, to save time."""
    camera, env._camera = env._camera, _Blind()
    yield
    env._camera = camera


class _Blind:
    def render(self) -> NDArray[np.uint8]:
        return np.zeros((1, 1, 3), np.uint8)


def test_an_agent_step_is_action_repeat_task_steps_and_shows_the_last_frame() -> None:
    oracle = bare("walker", "walk")
    oracle.reset()
    with control("walker-walk", action_repeat=3, resolution=25) as env:
        np.testing.assert_array_equal(env.reset(), seen(oracle, 25))
        for action in actions_of(6, 5):
            expected = sum(oracle.step(action.astype(np.float64)).reward for _ in range(3))
            step = env.step(action)
            assert step.reward == pytest.approx(expected, rel=1e-12)
            assert (step.terminated, step.truncated, step.episode) == (False, False, None)
            np.testing.assert_array_equal(step.frame, seen(oracle, 25))
            np.testing.assert_array_equal(env._env.physics.get_state(), oracle.physics.get_state())


@pytest.mark.parametrize(
    ("task", "camera"),
    [
        *(("quadruped-walk", 2), ("ball-in-cup-catch", 0)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("dog-fetch", 2), ("humanoid-cmu-run", 0))),
    ],
)
def test_the_camera_follows_the_body(task: str, camera: int) -> None:
    with control(task, resolution=50) as env:
        frame = env.reset()
        np.testing.assert_array_equal(frame, seen(env._env, 50, camera))


def test_the_default_spec_and_its_frames() -> None:
    with control("cartpole_swingup") as env:
        shapes = ((3, 100, 100), (84, 84))
        assert env.spec == EnvSpec("dm_control/cartpole-swingup-v0", "cartpole-swingup", *shapes, Continuous(1))
        frame = env.reset()
        assert frame.shape == (3, 100, 100)
        assert frame.dtype == np.uint8
        kept = frame.copy()
        env.step(np.ones(1, np.float32))
        assert env._env.physics.time() == pytest.approx(4 * 0.01)
        np.testing.assert_array_equal(frame, kept)
        assert frame.flags.owndata
        assert frame.flags.c_contiguous


@pytest.mark.parametrize(
    ("resolution", "crop"),
    [
        *((25, 21), (100, 84)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((50, 42), (75, 63), (175, 147))),
    ],
)
def test_frames_and_crops_scale_together(resolution: int, crop: int) -> None:
    with control("pendulum-swingup", resolution=resolution) as env:
        assert env.spec.frame_shape == env.reset().shape == (3, resolution, resolution)
        assert env.spec.crop_shape == (crop, crop)


@pytest.mark.parametrize("resolution", [51, 0, -25, 425, 84])
def test_other_resolutions_are_rejected(resolution: int) -> None:
    with pytest.raises(ResolutionError, match=f"^resolution {resolution} .*; use one of 25, 50, .*175$"):
        make_env("walker-walk", EnvOptions(resolution=resolution), seed=0, training=True)


@pytest.mark.parametrize("repeat", [4, 7, pytest.param(1, marks=pytest.mark.slow)])
def test_the_time_limit_truncates_the_episode(repeat: int) -> None:
    with control("cartpole-balance", action_repeat=repeat, resolution=25) as env:
        env.reset()
        with no_rendering(env):
            steps = [env.step(action) for action in actions_of(1, math.ceil(1000 / repeat))]
        assert [step.truncated for step in steps] == [False] * (len(steps) - 1) + [True]
        assert not any(step.terminated for step in steps)
        oracle = bare("cartpole", "balance")
        oracle.reset()
        taken = [action for action in actions_of(1, len(steps)) for _ in range(repeat)][:1000]
        rewards = [oracle.step(action).reward for action in taken]
        assert steps[-1].episode is not None
        assert steps[-1].episode.length_steps == len(steps)
        assert steps[-1].episode.episode_return == pytest.approx(sum(rewards))
        assert all(step.episode is None for step in steps[:-1])
        assert steps[-1].reward == pytest.approx(sum(rewards[(len(steps) - 1) * repeat :]))
        with pytest.raises(RuntimeError, match="reset the environment"):
            env.step(np.zeros(1, np.float32))
        env.reset()
        assert env.step(np.zeros(1, np.float32)).episode is None


def test_an_end_with_discount_zero_is_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    with control("walker-walk", resolution=25) as env:
        env.reset()
        monkeypatch.setattr(env._env.task, "get_termination", lambda physics: 0.0 if physics.time() > 0.12 else None)
        steps = [env.step(np.zeros(6, np.float32)) for _ in range(2)]
        assert env._env.physics.time() == pytest.approx(5 * 0.025)  # the rest of the repeat is skipped
        assert [(step.terminated, step.truncated) for step in steps] == [(False, False), (True, False)]
        assert steps[-1].episode == Episode(steps[0].reward + steps[1].reward, 2)


def test_a_step_before_reset_is_rejected() -> None:
    with control("walker-walk", resolution=25) as env, pytest.raises(RuntimeError, match="reset the environment"):
        env.step(np.zeros(6, np.float32))


def test_actions_are_scaled_to_the_tasks_bounds() -> None:
    with control("quadruped-walk", action_repeat=1, resolution=25) as env:
        env.reset()
        spec = env._env.action_spec()
        assert spec.minimum.min() == -1.0
        assert spec.maximum.max() == 1.1
        for end, controls in ((-1.0, spec.minimum), (1.0, spec.maximum), (0.0, (spec.minimum + spec.maximum) / 2)):
            env.step(np.full(12, end, np.float32))
            np.testing.assert_allclose(env._env.physics.control(), controls, rtol=1e-15, atol=1e-15)


def _played(seed: int) -> tuple[NDArray[np.uint8], list[float]]:
    with control("cartpole-swingup", seed=seed, resolution=25) as env:
        frames, rewards = [env.reset()], []
        for action in actions_of(1, 5):
            step = env.step(action)
            frames.append(step.frame)
            rewards.append(step.reward)
        return np.stack([*frames, env.reset()]), rewards


def test_the_seed_determines_the_trajectory() -> None:
    frames, rewards = _played(3)
    again, rewards_again = _played(3)
    np.testing.assert_array_equal(frames, again)
    assert rewards == rewards_again
    assert not np.array_equal(frames, _played(4)[0])
    assert not np.array_equal(frames[0], frames[-1])  # the next episode differs


def test_a_second_environment_does_not_change_the_trajectory() -> None:
    alone, rewards_alone = _played(3)
    with control("cartpole-swingup", resolution=25) as env, control("cartpole-swingup", resolution=50) as other:
        frames, rewards = [env.reset()], []
        for action in actions_of(1, 5):
            other.reset()
            step = env.step(action)
            other.step(-action)
            frames.append(step.frame)
            rewards.append(step.reward)
        other.close()
        frames.append(env.reset())
    np.testing.assert_array_equal(frames, alone)
    assert rewards == rewards_alone


def test_every_task_of_the_suite_resolves_in_every_spelling() -> None:
    for domain, task in SUITE.ALL_TASKS:
        spelt = (
            f"{domain}-{task}",
            f"{domain} {task}".replace("_", " ").title(),
            f"dm_control/{domain}-{task}-v0".replace("_", "-").replace("dm-", "dm_"),
        )
        assert {resolve(name).registered for name in spelt} == {f"{domain}/{task}"}
        assert {resolve(name).id for name in spelt} == {f"dm_control/{domain}-{task}-v0"}


def test_unbounded_actions_are_rejected() -> None:
    with pytest.raises(UnsupportedEnvError, match=r"^control task 'lqr-lqr-6-2' has unbounded actions"):
        make_env("lqr-lqr_6_2", EnvOptions(), seed=0, training=True)


def test_action_repeat_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="got action_repeat 0"):
        make_env("walker-walk", EnvOptions(action_repeat=0), seed=0, training=True)


ANSWER = """
from seer_edge.envs import EnvOptions, UnavailableEnvError, make_env
try:
    make_env("walker-walk", EnvOptions(), seed=0, training=True)
except UnavailableEnvError as error:
    print(error)
"""


INSTALL = "pip install 'seer-edge[dmc]'"
if sys.version_info >= (3, 13):
    INSTALL = "pip install 'seer-edge[dmc]' && pip install --no-deps dm_control"


@pytest.mark.parametrize("package", ["dm_control", "mujoco"])
def test_a_missing_package_is_reported_with_the_command_to_install_it(package: str) -> None:
    output = fresh(f"import sys\nsys.modules[{package!r}] = None\n{ANSWER}")
    assert output.startswith("control tasks need dm_control (")
    assert output.endswith(f"): {INSTALL}\n")
    assert output.count("\n") == 1


# Replaces ctypes.CDLL, because a test cannot uninstall system libraries.
_ONLY_THESE_LOAD = """
import ctypes
def load(name):
    if name not in {loading!r}:
        raise OSError(name)
ctypes.CDLL = load
from seer_edge.envs import UnavailableEnvError
from seer_edge.envs.rendering import _first_backend
try:
    print(_first_backend())
except UnavailableEnvError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("loading", "answer"),
    [
        (["libEGL.so.1", "libOSMesa.so.8"], "egl"),
        (["libOSMesa.so.8"], "osmesa"),
        (
            [],
            "control tasks need EGL or OSMesa to render, and neither is installed; "
            "apt-get install libegl1 libgl1-mesa-dri, or libosmesa6",
        ),
    ],
)
def test_egl_is_preferred_to_osmesa_and_an_error_names_the_packages(loading: list[str], answer: str) -> None:
    assert fresh(_ONLY_THESE_LOAD.format(loading=loading)) == f"{answer}\n"


@pytest.mark.parametrize(
    ("variables", "reason", "hint"),
    [
        (
            {"MUJOCO_GL": "", "__EGL_VENDOR_LIBRARY_FILENAMES": "/nothing"},
            "control tasks cannot be rendered with MUJOCO_GL=egl: ImportError: Cannot init",
            "apt-get install libosmesa6 and set MUJOCO_GL=osmesa\n",
        ),
        ({"MUJOCO_GL": "direct3d"}, "MUJOCO_GL=direct3d is not one of egl, osmesa and glfw", "unset it\n"),
        ({"MUJOCO_GL": "off"}, "MUJOCO_GL=off is not one of egl, osmesa and glfw", "unset it\n"),
        (
            {"MUJOCO_GL": "glfw", "DISPLAY": "", "WAYLAND_DISPLAY": ""},
            "MUJOCO_GL=glfw needs a display",
            "unset MUJOCO_GL\n",
        ),
    ],
)
def test_an_opengl_failure_is_reported_in_one_line(variables: dict[str, str], reason: str, hint: str) -> None:
    output = fresh(ANSWER, **variables)
    assert output.startswith(reason)
    assert output.endswith(hint)
    assert output.count("\n") == 1


def test_rendering_is_headless_and_single_threaded_unless_the_user_chose() -> None:
    built = """
    import os
    from seer_edge.envs import EnvOptions, make_env
    make_env("walker-walk", EnvOptions(resolution=25), seed=0, training=True).reset()
    print(os.environ["MUJOCO_GL"], os.environ["LP_NUM_THREADS"])
    """
    assert fresh(built, MUJOCO_GL="") == "egl 0\n"
    assert fresh(built, MUJOCO_GL="egl", LP_NUM_THREADS="2") == "egl 2\n"


def test_control_needs_no_gymnasium_and_atari_no_dm_control() -> None:
    output = fresh("""
    import sys
    sys.modules["gymnasium"] = sys.modules["ale_py"] = None
    from seer_edge.envs import EnvOptions, make_env
    print(make_env("walker-walk", EnvOptions(resolution=25), seed=0, training=True).reset().shape)
    """)
    assert output == "(3, 25, 25)\n"
    output = fresh("""
    import sys
    sys.modules["dm_control"] = sys.modules["mujoco"] = None
    from seer_edge.envs import EnvOptions, make_env
    print(make_env("Alien", EnvOptions(), seed=0, training=True).reset().shape)
    """)
    assert output == "(84, 84)\n"


def test_a_failing_camera_is_reported_as_a_rendering_failure() -> None:
    with pytest.raises(UnavailableEnvError, match="cannot be rendered with MUJOCO_GL="):
        rendering_camera(bare("walker", "walk").physics, 25, 99)
