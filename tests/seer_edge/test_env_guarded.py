from fractions import Fraction
from typing import Any

import gymnasium
import numpy as np
import pytest

from seer_edge.envs import Discrete, EnvOptions, EnvSpec, Episode, Step, make_env
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import EnvironmentFailedError
from seer_runtime.system.state import State, StateError
from tests.seer_edge.env_registry import register
from tests.seer_edge.env_twins import assert_go_on_alike

SCREEN = np.zeros((4, 4), np.uint8)


class Odd:
    """Shows `frame` and gives `step`; what is an exception is raised."""

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


def refused(env: Odd, call: str) -> str:
    guarded = Guarded(env)
    assert not guarded.failed
    with pytest.raises(EnvironmentFailedError) as caught:
        guarded.step(0) if call == "step" else getattr(guarded, call)()
    assert guarded.failed
    assert guarded.state() is None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((4, 5), np.uint8), "a frame of uint8 [4, 5] where uint8 [4, 4] was promised"),
        (np.zeros((1, 4, 4), np.uint8), "a frame of uint8 [1, 4, 4] where uint8 [4, 4] was promised"),
        (np.full((4, 4), np.nan), "a frame of float64 [4, 4] where uint8 [4, 4] was promised"),
        (np.zeros((4, 4), np.int8), "a frame of int8 [4, 4] where uint8 [4, 4] was promised"),
        ([[0] * 4] * 4, "a frame of list [[0, 0, 0, 0], "),
        (None, "a frame of NoneType None where"),
        ((SCREEN, {}), "a frame of tuple (array("),
    ],
)
def test_a_frame_that_is_none(frame: Any, said: str) -> None:
    assert refused(Odd(frame), "reset").startswith(said)
    assert refused(Odd(step=step(frame)), "step").startswith(said)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (float("nan"), "a reward of nan"),
        (np.float32("-inf"), "a reward of -inf"),
        ("1.0", "a reward of str '1.0'"),
        (None, "a reward of NoneType None"),
        (1j, "a reward of complex 1j"),
        (np.ones(1), "a reward of float64 [1]"),
        ([1.0], "a reward of list [1.0]"),
        (np.datetime64(0, "s"), "a reward of datetime64 "),
        (Fraction(1, 2), "a reward of Fraction Fraction(1, 2)"),
        (10**400, "a reward of int 1000"),
    ],
)
def test_a_reward_that_is_none(reward: Any, said: str) -> None:
    assert refused(Odd(step=step(reward=reward)), "step").startswith(said)


@pytest.mark.parametrize("reward", [1, True, 1.0, np.float32(1), np.int64(1), np.bool_(True), np.ones((), np.float16)])
def test_a_reward_is_a_python_float(reward: Any) -> None:
    seen = Guarded(Odd(step=step(reward=reward))).step(0).reward
    assert type(seen) is float
    assert seen == 1.0


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((1, False), "terminated is int 1, not true or false"),
        ((False, None), "truncated is NoneType None, not true or false"),
        ((np.zeros(1, bool), False), "terminated is bool [1], not true or false"),
        (("False", False), "terminated is str 'False', not true or false"),
        ((True, True), "a step both terminated and truncated"),
    ],
)
def test_ends_that_are_none(ends: tuple[Any, Any], said: str) -> None:
    assert refused(Odd(step=step(ends=ends)), "step") == said


def test_ends_are_python_bools() -> None:
    seen = Guarded(Odd(step=step(ends=(np.bool_(False), np.ones((), bool))))).step(0)
    assert (seen.terminated, seen.truncated) == (False, True)
    assert type(seen.terminated) is type(seen.truncated) is bool


@pytest.mark.parametrize(
    ("ends", "episode", "said"),
    [
        ((False, False), Episode(1.0, 1), "an episode that is over in a step that is not its last"),
        ((True, False), Episode(float("nan"), 1), "an episode that is Episode "),
        ((True, False), Episode("1", 1), "an episode that is Episode "),  # type: ignore[arg-type]
        ((True, False), Episode(1.0, 0), "an episode that is Episode "),
        ((True, False), Episode(1.0, 1.5), "an episode that is Episode "),  # type: ignore[arg-type]
        ((True, False), (1.0, 1), "an episode that is tuple (1.0, 1)"),
    ],
)
def test_an_episode_that_is_none(ends: tuple[bool, bool], episode: Any, said: str) -> None:
    assert refused(Odd(step=step(ends=ends, episode=episode)), "step").startswith(said)


def test_a_step_that_is_none() -> None:
    assert refused(Odd(step=(SCREEN, 0.0, False, False, {})), "step").startswith("a step that is tuple ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no\ncamera"), "RuntimeError: no camera (test_env_guarded.py:"),
        (SystemExit(3), "SystemExit: 3 (test_env_guarded.py:"),
        (StopIteration(), "StopIteration:  (test_env_guarded.py:"),
        (GeneratorExit(), "GeneratorExit:  (test_env_guarded.py:"),
        (MemoryError(), "MemoryError:  (test_env_guarded.py:"),
    ],
)
@pytest.mark.parametrize("timeout", [None, 60.0])
def test_whatever_it_raises(error: BaseException, said: str, timeout: float | None) -> None:
    for call in ("reset", "step", "close"):
        assert refused(Odd(error, error), call).startswith(said)
        guarded = Guarded(Odd(error, error), timeout, print)
        with pytest.raises(EnvironmentFailedError):
            guarded.step(0)
    assert refused_state(error).startswith(said)


def refused_state(error: BaseException) -> str:
    guarded = Guarded(Odd(state=error))
    with pytest.raises(EnvironmentFailedError) as caught:
        guarded.state()
    assert guarded.failed
    return str(caught.value)


def test_an_interrupt_stays_one_and_leaves_nothing_to_save() -> None:
    guarded = Guarded(Odd(step=KeyboardInterrupt(), state=State()))
    with pytest.raises(KeyboardInterrupt):
        guarded.step(0)
    assert guarded.failed
    assert guarded.state() is None


def test_states_pass_through() -> None:
    state = State({"a": 1})
    odd = Odd(state=state)
    guarded = Guarded(odd)
    assert guarded.state() is state
    guarded.restore(state)
    assert odd.restored == [state]
    assert not guarded.failed
    with pytest.raises(StateError, match="other"):
        Guarded(Odd(state=StateError("other"))).restore(state)


def test_a_real_environment_goes_on_behind_it() -> None:
    env, twin = (Guarded(make_env("Alien", EnvOptions(), seed=seed, training=True), 60.0, print) for seed in (1, 2))
    env.reset()
    env.step(1)
    saved = env.state()
    assert saved is not None
    twin.restore(saved)
    assert_go_on_alike(env, twin, 40)
    assert not env.failed
    for each in (env, twin):
        each.close()


class Reusing(gymnasium.Env[Any, Any]):
    """Screens of one buffer, each brighter than the one before, spoilt by turns as `spoil` says."""

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


def test_a_reused_buffer_does_not_reach_back(monkeypatch: pytest.MonkeyPatch) -> None:
    env = reusing(monkeypatch)
    frames = [env.reset(), *(env.step(0).frame for _ in range(5))]
    assert [int(frame.max()) for frame in frames] == [int(frame.min()) for frame in frames] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"spoil": np.full((20, 20), np.nan)}, r"promised uint8 \[20, 20\] and showed float64 \[20, 20\]"),
        ({"spoil": None, "reward": "1.0"}, "a reward of str '1.0'"),
        ({"reward": np.ones(1)}, r"a reward of float64 \[1\]"),
        ({"ends": ("no", False)}, "terminated is str 'no', not true or false"),
        ({"ends": (False, 0)}, "truncated is int 0, not true or false"),
    ],
)
def test_what_gymnasiums_environments_give_is_not_made_to_fit(
    kwargs: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = reusing(monkeypatch, **kwargs)
    env.reset()
    with pytest.raises(EnvironmentFailedError, match=said):
        env.step(0)
    assert env.failed


def test_gymnasiums_environments_have_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    env = reusing(monkeypatch)
    env.reset()
    assert env.state() is None
    assert not env.failed
    with pytest.raises(StateError, match=r"environment 'test/Reusing-v0' cannot be restored"):
        env.restore(State())
