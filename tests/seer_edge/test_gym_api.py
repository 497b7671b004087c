"""Arguments and results of an environment's methods: harmless differences are accepted, others reported."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from seer_edge.envs import EnvOptions, UnavailableEnvError, UnsupportedEnvError, ViewError, make_env
from seer_edge.envs.guarded import open_guarded
from seer_edge.errors import BadInputError, EnvironmentFailedError
from tests.seer_edge.env_registry import register

PICTURE = np.zeros((20, 20), np.uint8)
INFO: dict[str, Any] = {}
FIVE = (PICTURE, 0.0, False, False, INFO)


class Returning(gymnasium.Env[Any, Any]):
    """An environment whose methods return the given values."""

    observation_space = gymnasium.spaces.Box(0, 255, (20, 20), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)
    seeds_below = 2**31
    seeds: ClassVar[list[Any]] = []

    def __init__(self, start: Any = (PICTURE, INFO), step: Any = FIVE) -> None:
        self.started, self.stepped = start, step

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.seeds.append(seed)
        if seed is not None and seed >= self.seeds_below:
            raise OverflowError("too large to convert to a C short")
        return self.started

    def step(self, action: Any) -> Any:
        return self.stepped


class Seedless(Returning):
    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]
        return self.started


class Arguments(Returning):
    def __init__(self, camera: int) -> None:
        super().__init__()


def build(
    monkeypatch: pytest.MonkeyPatch, made: Any = Returning, options: dict[str, Any] | None = None, **k: Any
) -> Any:
    register(monkeypatch, "test/Returning-v0", entry_point=made, kwargs=k, **(options or {}))
    return make_env("test/Returning-v0", EnvOptions(), seed=2**31 - 1, training=True)


@pytest.mark.parametrize("start", [[PICTURE, INFO], (PICTURE, None)])
def test_a_list_and_a_missing_info_are_accepted(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build(monkeypatch, start=start, step=list(FIVE))
    np.testing.assert_array_equal(env.reset(), PICTURE)
    assert env.step(0).reward == 0


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (None, "reset returns None, not observation and info"),
        ((PICTURE,), "reset returns 1 value, not"),
        ((PICTURE, 0.0, INFO), "reset returns 3 values, not observation and info"),
        (PICTURE, "reset returns the observation alone, .*: it has the API of Gym before"),
    ],
)
def test_another_reset_is_named(start: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedEnvError, match=message):
        build(monkeypatch, start=start).reset()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (None, "step returns NoneType None, not five values: observation, reward, terminated, truncated and info"),
        (FIVE[:3], "step returns 3 values, not five: observation, reward"),
        ((*FIVE, 1), "step returns 6 values, not five: observation, reward"),
        (FIVE[:4], "step returns four values, not five: it has the API of Gym before"),
    ],
)
def test_another_step_is_named(step: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = build(monkeypatch, step=step)
    env.reset()
    with pytest.raises(UnsupportedEnvError, match=message):
        env.step(0)
    wrapped = build(monkeypatch, options={"max_episode_steps": 9}, step=step)
    wrapped.reset()
    with pytest.raises(UnsupportedEnvError, match=r"step does not return five values \(.*unpack.*\): "):
        wrapped.step(0)


def test_a_reset_without_options_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedEnvError, match=r"write reset\(self, \*, seed=None, options=None\)"):
        build(monkeypatch, Seedless).reset()


def test_a_smaller_seed_is_used_where_large_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Returning, "seeds_below", 2**16)
    monkeypatch.setattr(Returning, "seeds", [])
    build(monkeypatch).reset()
    assert Returning.seeds == [2**31 - 1, 2**16 - 1]


def test_an_environment_that_refuses_every_seed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Returning, "seeds_below", 0)
    with pytest.raises(OverflowError):
        build(monkeypatch).reset()


def test_missing_arguments_name_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UnavailableEnvError, match=r"argument: 'camera' \([\w.]+:\d+\); --env-kwargs sets its arguments$"
    ):
        build(monkeypatch, Arguments)


def test_a_missing_render_method_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "test/Returning-v0", entry_point=lambda render_mode: Returning())
    with pytest.raises(ViewError, match="has no method render; leave --render-observations out, or add the method"):
        make_env("test/Returning-v0", EnvOptions(render=True), seed=0, training=True)


def test_the_error_of_a_guarded_call_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Returning):
        @property
        def action_space(self) -> Any:  # type: ignore[override]
            raise LookupError("no joystick")

    register(monkeypatch, "test/Broken-v0", entry_point=Broken)
    with pytest.raises(EnvironmentFailedError, match="LookupError: no joystick") as caught:
        open_guarded("test/Broken-v0", EnvOptions(), seed=0, training=True)
    assert caught.value.call == "construction"
    register(monkeypatch, "test/Returning-v0", entry_point=Returning, kwargs={"start": (PICTURE[:9], INFO)})
    with pytest.raises(EnvironmentFailedError) as caught:
        open_guarded("test/Returning-v0", EnvOptions(), seed=0, training=True).reset()
    assert caught.value.call == "reset"
    register(monkeypatch, "test/Returning-v0", entry_point=Returning, kwargs={"start": None})
    with pytest.raises(BadInputError, match="--env test/Returning-v0: reset returns None"):
        open_guarded("test/Returning-v0", EnvOptions(), seed=0, training=True).reset()


def test_a_reward_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    env = build(monkeypatch, step=(PICTURE, torch.ones(1, requires_grad=True), False, False, INFO))
    env.reset()
    with pytest.raises(EnvironmentFailedError, match="the reward is Tensor tensor"):
        env.step(0)
