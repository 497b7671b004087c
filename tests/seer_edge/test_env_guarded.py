"""`Guarded` reports every failure of an environment, and passes valid steps and states through."""

import dataclasses
from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest

from seer_edge.envs import Actions, Continuous, Discrete, EnvOptions, EnvSpec, Episode, Step, make_env
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.system.state import State, StateError
from tests.seer_edge.env_registry import register
from tests.seer_edge.env_twins import assert_continue_alike

SCREEN = np.zeros((4, 4), np.uint8)


class Odd:
    """An environment that returns the given frame, step and state, or raises those that are exceptions."""

    spec = EnvSpec("Odd-v0", "Odd", (4, 4), (4, 4), Discrete(3))

    def __init__(self, frame: Any = SCREEN, step: Any = None, state: Any = None) -> None:
        self.frame, self.result, self.saved = frame, step, state
        self.restored: list[State] = []

    def reset(self) -> Any:
        return given(self.frame)

    def step(self, action: int) -> Any:
        return given(self.result)

    def close(self) -> None:
        given(self.result)

    def state(self) -> Any:
        return given(self.saved)

    def restore(self, state: State) -> None:
        self.restored.append(state)
        given(self.saved)


def given(value: Any) -> Any:
    if isinstance(value, BaseException):
        raise value
    return value


def step(frame: Any = SCREEN, reward: Any = 0.0, ends: tuple[Any, Any] = (False, False), episode: Any = None) -> Step:
    return Step(frame, reward, *ends, episode)


def failure(env: Odd, call: str) -> str:
    """Call `env` through `Guarded` and return the message of its failure."""
    guarded = Guarded(env)
    assert not guarded.failed
    with pytest.raises(EnvironmentFailedError) as caught:
        guarded.step(0) if call == "step" else getattr(guarded, call)()
    assert guarded.failed
    assert guarded.state() is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((4, 5), np.uint8), "the frame is uint8 [4, 5], not uint8 [4, 4]"),
        (np.zeros((1, 4, 4), np.uint8), "the frame is uint8 [1, 4, 4], not uint8 [4, 4]"),
        (np.full((4, 4), np.nan), "the frame is float64 [4, 4], not uint8 [4, 4]"),
        (np.zeros((4, 4), np.int8), "the frame is int8 [4, 4], not uint8 [4, 4]"),
        ([[0] * 4] * 4, "the frame is list [[0, 0, 0, 0], "),
        (None, "the frame is NoneType None, not"),
        ((SCREEN, {}), "the frame is tuple (array("),
    ],
)
def test_an_invalid_frame_is_a_failure(frame: Any, message: str) -> None:
    assert failure(Odd(frame), "reset").startswith(message)
    assert failure(Odd(step=step(frame)), "step").startswith(message)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (float("nan"), "the reward is nan"),
        (np.float32("-inf"), "the reward is -inf"),
        ("1.0", "the reward is str '1.0'"),
        (None, "the reward is NoneType None"),
        (1j, "the reward is complex 1j"),
        (np.ones(2), "the reward is float64 [2]"),
        ([1.0, 0.0], "the reward is list [1.0, 0.0]"),
        ([1.0, [0.0]], "the reward is list [1.0, [0.0]]"),
        ([], "the reward is list []"),
        (np.datetime64(0, "s"), "the reward is datetime64 "),
        (Fraction(1, 2), "the reward is Fraction Fraction(1, 2)"),
        (10**400, "the reward is int 1000"),
    ],
)
def test_an_invalid_reward_is_a_failure(reward: Any, message: str) -> None:
    assert failure(Odd(step=step(reward=reward)), "step").startswith(message)


@pytest.mark.parametrize(
    "reward",
    [
        1,
        True,
        1.0,
        np.float32(1),
        np.int64(1),
        np.bool_(True),
        np.ones((), np.float16),
        np.ones(1),
        np.ones((1, 1)),
        [1],
    ],
)
def test_rewards_of_one_number_are_returned_as_python_floats(reward: Any) -> None:
    seen = Guarded(Odd(step=step(reward=reward))).step(0).reward
    assert type(seen) is float
    assert seen == 1.0


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((2, False), "terminated is int 2, not true or false"),
        ((0.5, False), "terminated is float 0.5, not true or false"),
        ((False, None), "truncated is NoneType None, not true or false"),
        ((np.zeros(2, bool), False), "terminated is bool [2], not true or false"),
        (("False", False), "terminated is str 'False', not true or false"),
        ((True, True), "the step is both terminated and truncated"),
    ],
)
def test_invalid_end_flags_are_a_failure(ends: tuple[Any, Any], message: str) -> None:
    assert failure(Odd(step=step(ends=ends)), "step") == message


@pytest.mark.parametrize(
    ("no", "yes"),
    [(np.bool_(False), np.ones((), bool)), (0, 1), (0.0, 1.0), (np.zeros(1, bool), np.ones(1)), ([0], [1])],
)
def test_end_flags_are_returned_as_python_bools(no: Any, yes: Any) -> None:
    seen = Guarded(Odd(step=step(ends=(no, yes)))).step(0)
    assert (seen.terminated, seen.truncated) == (False, True)
    assert type(seen.terminated) is type(seen.truncated) is bool


@pytest.mark.parametrize(
    ("ends", "episode", "message"),
    [
        ((False, False), Episode(1.0, 1), "the step reports a finished episode, but is neither"),
        ((True, False), Episode(float("nan"), 1), "the episode is Episode "),
        ((True, False), Episode("1", 1), "the episode is Episode "),  # type: ignore[arg-type]
        ((True, False), Episode(1.0, 0), "the episode is Episode "),
        ((True, False), Episode(1.0, 1.5), "the episode is Episode "),  # type: ignore[arg-type]
        ((True, False), (1.0, 1), "the episode is tuple (1.0, 1)"),
    ],
)
def test_an_invalid_episode_is_a_failure(ends: tuple[bool, bool], episode: Any, message: str) -> None:
    assert failure(Odd(step=step(ends=ends, episode=episode)), "step").startswith(message)


def test_an_invalid_step_is_a_failure() -> None:
    assert failure(Odd(step=(SCREEN, 0.0, False, False, {})), "step").startswith("the step is tuple ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("no\ncamera"), "RuntimeError: no camera (test_env_guarded.py:"),
        (SystemExit(3), "SystemExit: 3 (test_env_guarded.py:"),
        (StopIteration(), "StopIteration (test_env_guarded.py:"),
        (GeneratorExit(), "GeneratorExit (test_env_guarded.py:"),
        (MemoryError(), "MemoryError (test_env_guarded.py:"),
    ],
)
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_any_exception_is_a_failure(error: BaseException, message: str, timeout: float | None) -> None:
    for call in ("reset", "step"):
        assert failure(Odd(error, error), call).startswith(message)
        guarded = Guarded(Odd(error, error), timeout, print)
        with pytest.raises(EnvironmentFailedError):
            guarded.step(0)
    assert state_failure(error).startswith(message)


def state_failure(error: BaseException) -> str:
    guarded = Guarded(Odd(state=error))
    with pytest.raises(EnvironmentFailedError) as caught:
        guarded.state()
    assert guarded.failed
    return str(caught.value)


def test_an_interrupt_is_raised_unchanged_and_the_state_is_dropped() -> None:
    guarded = Guarded(Odd(step=KeyboardInterrupt(), state=State()))
    with pytest.raises(KeyboardInterrupt):
        guarded.step(0)
    assert guarded.failed
    assert guarded.state() is None


def test_states_are_passed_through() -> None:
    state = State({"a": 1})
    odd = Odd(state=state)
    guarded = Guarded(odd)
    assert guarded.state() is state
    guarded.restore(state)
    assert odd.restored == [state]
    assert not guarded.failed
    with pytest.raises(StateError, match="other"):
        Guarded(Odd(state=StateError("other"))).restore(state)


def test_a_guarded_game_continues_after_a_restore() -> None:
    env, twin = (Guarded(make_env("Alien", EnvOptions(), seed=seed, training=True), 60.0, print) for seed in (1, 2))
    env.reset()
    env.step(1)
    saved = env.state()
    assert saved is not None
    twin.restore(saved)
    assert_continue_alike(env, twin, 40)
    assert not env.failed
    for each in (env, twin):
        each.close()


class Reusing(gymnasium.Env[Any, Any]):
    """An environment that draws into one buffer, each screen brighter than the last, or returns `spoil` instead."""

    def __init__(self, spoil: Any = None, reward: Any = 0.0, ends: Any = (False, False)) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, (20, 20), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.screen = np.zeros((20, 20), np.uint8)
        self.spoil, self.reward, self.ends = spoil, reward, ends

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.screen[...] = 0
        return self.screen, {}

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.screen += 1
        return self.screen if self.spoil is None else self.spoil, self.reward, *self.ends, {}


def reusing(monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> Guarded:
    register(monkeypatch, "test/Reusing-v0", entry_point=Reusing, kwargs=kwargs, disable_env_checker=True)
    return Guarded(make_env("test/Reusing-v0", EnvOptions(), seed=0, training=True))


def test_an_environment_that_reuses_its_buffer_does_not_change_old_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    env = reusing(monkeypatch)
    frames = [env.reset(), *(env.step(0).frame for _ in range(5))]
    assert [int(frame.max()) for frame in frames] == [int(frame.min()) for frame in frames] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"spoil": np.full((20, 20), np.nan)}, r"the picture is float64 \[20, 20\], not uint8 \[20, 20\] as declared"),
        ({"spoil": None, "reward": "1.0"}, "the reward is str '1.0'"),
        ({"reward": np.ones(2)}, r"the reward is float64 \[2\]"),
        ({"ends": ("no", False)}, "terminated is str 'no', not true or false"),
        ({"ends": (False, -1)}, "truncated is int -1, not true or false"),
    ],
)
def test_invalid_values_of_gymnasium_environments_are_not_converted(
    kwargs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = reusing(monkeypatch, **kwargs)
    env.reset()
    with pytest.raises(EnvironmentFailedError, match=message):
        env.step(0)
    assert env.failed


def test_gymnasium_environments_have_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    env = reusing(monkeypatch)
    env.reset()
    assert env.state() is None
    assert not env.failed
    with pytest.raises(StateError, match=r"environment 'test/Reusing-v0' cannot be restored"):
        env.restore(State())


@pytest.mark.parametrize(
    ("actions", "good", "bad"),
    [
        (Discrete(3), [0, np.int64(2), np.array(1)], [3, -1, 1.5, np.array([1]), "left", [1, [2]]]),
        (
            Continuous(2),
            [np.zeros(2, np.float32), [0.1, -0.2]],
            [np.zeros(3), 0.5, np.zeros((1, 2)), [0, np.nan], [0, 2]],
        ),
    ],
)
def test_an_executed_action_is_one_of_the_environments(actions: Actions, good: list[Any], bad: list[Any]) -> None:
    env = Odd()
    env.spec = dataclasses.replace(Odd.spec, actions=actions)
    for action in good:
        env.result = dataclasses.replace(step(), action=action)
        assert Guarded(env).step(0).action is action
    for action in bad:
        env.result = dataclasses.replace(step(), action=action)
        assert failure(env, "step").startswith("the executed action is ")
