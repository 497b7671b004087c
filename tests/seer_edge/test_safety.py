"""The attributes of an environment about safety, and the limits of actions."""

import logging
import threading
from typing import Any

import gymnasium
import numpy as np
import pytest

from seer_edge.cli.flags import parse
from seer_edge.config.real_time import check_real_time
from seer_edge.config.request import ResumeRequest, RunRequest
from seer_edge.envs import Continuous, Discrete, EnvOptions, EnvSpec, Step, make_env
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.safety import AskedLimits, Limits, action_at_rest, limits_of, safety_of
from seer_edge.errors import BadInputError
from seer_runtime.policy.actions import Bounded
from tests.seer_edge.env_registry import register
from tests.seer_edge.test_env_guarded import SCREEN, Odd

SHAPE = (4, 4)


def spec(controls: int | None = 2, own: Bounded | None = None) -> EnvSpec:
    actions = Discrete(3) if controls is None else Continuous(controls)
    return EnvSpec("Arm-v0", "Arm", SHAPE, SHAPE, actions, own_actions=own)


class Arm(Odd):
    """An environment with the given attributes."""

    def __init__(self, controls: int | None = 2, **attributes: Any) -> None:
        super().__init__()
        self.spec = spec(controls)
        for name, value in attributes.items():
            setattr(self, name, value)


def limits(asked: AskedLimits, controls: int | None = 2, **attributes: Any) -> Limits | None:
    env = Arm(controls, **attributes)
    return limits_of(env.spec, safety_of(env), asked)


# --- attributes --------------------------------------------------------------------------------------------


def test_an_environment_without_attributes_says_nothing() -> None:
    safety = safety_of(Arm())
    assert (safety.rest, safety.rest_command, safety.action_limits, safety.slew_rate) == (None, (), None, None)
    assert limits(AskedLimits(10.0)) is None


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"rest": 3}, "its rest is int 3; make it a method"),
        ({"rest_command": ["sh"]}, "also needs a method rest"),
        ({"rest": print, "rest_command": "stop"}, "its rest_command is str 'stop'; give a list of words"),
        ({"rest": print, "rest_command": []}, "give a list of words"),
        ({"rest": print, "rest_command": ["no-such-program-1"]}, "there is no program 'no-such-program-1'"),
        ({"action_limits": 1.0}, "its action_limits is float 1.0; give (low, high)"),
        ({"action_limits": (-1, 2)}, "give (low, high)"),
        ({"action_limits": (0.5, -0.5)}, "give (low, high)"),
        ({"action_limits": ([0, 0, 0], 1)}, "give (low, high)"),
        ({"slew_rate": 0}, "its slew_rate is int 0; give a number above 0"),
        ({"slew_rate": float("nan")}, "give a number above 0"),
        ({"slew_rate": [1, 2, 3]}, "give a number above 0"),
        ({"slew_rate": "fast"}, "give a number above 0"),
        ({"controls": None, "slew_rate": 1}, "only continuous actions have limits"),
        ({"controls": None, "action_limits": (0, 1)}, "only continuous actions have limits"),
    ],
)
def test_an_attribute_that_cannot_be_used_is_named(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        _ = Guarded(Arm(**attributes)).safety
    assert str(caught.value).startswith("--env Arm-v0: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


class Screen(gymnasium.Env[Any, Any]):
    observation_space = gymnasium.spaces.Box(0, 255, SHAPE, np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def rest(self) -> str:
        return "at rest"


class WithCommand(gymnasium.Wrapper[Any, Any, Any, Any]):
    rest_command = ("sh", "-c", "true")


@pytest.mark.parametrize("options", [EnvOptions(), EnvOptions(gray_levels=16)])
def test_attributes_of_gymnasium_environments_and_their_wrappers_are_found(
    monkeypatch: pytest.MonkeyPatch, options: EnvOptions
) -> None:
    register(monkeypatch, "test/Screen-v0", entry_point=lambda: WithCommand(Screen()), max_episode_steps=9)
    safety = safety_of(make_env("test/Screen-v0", options, seed=0, training=True))
    assert safety.rest is not None
    assert safety.rest() == "at rest"
    assert safety.rest_command == ("sh", "-c", "true")


# --- rest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "sent", "action"),
    [
        (None, None, [0, 0]),
        (None, [0.5, -1], [0.5, -1]),
        (Bounded((2,), "float32", (0.0, -10.0), (4.0, 10.0)), None, [-1, 0]),
        (Bounded((2,), "float32", (0.0, -10.0), (4.0, 10.0)), [4, 5], [1, 0.5]),
    ],
)
def test_rest_is_an_action(own: Bounded | None, sent: Any, action: list[float]) -> None:
    np.testing.assert_allclose(action_at_rest(spec(2, own), sent), action)  # type: ignore[arg-type]


def test_an_exception_of_rest_is_reported_once_and_not_raised(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> None:
        raise OSError("the motors do not answer")

    guarded = Guarded(Arm(rest=fails))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(guarded.rest(), [0, 0])  # type: ignore[arg-type]
        assert not guarded.rests
        guarded.rest_beside()
    (line,) = caplog.messages
    assert line.startswith("environment 'Arm-v0': could not be brought to rest: OSError: the motors do not answer (")
    assert not guarded.failed, "a checkpoint is still possible"


def test_another_thread_can_bring_it_to_rest_while_a_step_hangs() -> None:
    inside, rested = threading.Event(), threading.Event()

    class Hangs(Arm):
        def step(self, action: Any) -> Any:
            inside.set()
            assert rested.wait(30)
            return Step(SCREEN, 0.0, False, False, None)

        def rest(self) -> None:
            rested.set()

    guarded = Guarded(Hangs())
    thread = threading.Thread(target=guarded.step, args=(np.zeros(2, np.float32),))
    thread.start()
    assert inside.wait(30)
    guarded.rest_beside()
    assert rested.is_set()
    thread.join(30)


# --- limits ------------------------------------------------------------------------------------------------


def test_limits_bound_every_control_and_its_change() -> None:
    rng = np.random.default_rng(0)
    found = limits(AskedLimits(10.0, (-0.6, 0.8), (2.0, 1.0)), action_limits=(-0.5, [1, 0.3]), slew_rate=(4, 0.5))
    assert found is not None
    low, high, change = np.float32([-0.5, -0.5]), np.float32([0.8, 0.3]), np.float32([0.2, 0.05])
    last = np.zeros(2, np.float32)
    for _ in range(500):
        action = found.apply(rng.uniform(-1, 1, 2).astype(np.float32))
        assert action.dtype == np.float32
        assert ((low <= action) & (action <= high)).all()
        assert (np.abs(action - last) <= change + 1e-6).all()
        last = action
    assert (np.abs(last) > 0).any()


def test_an_action_within_the_limits_is_not_changed() -> None:
    found = limits(AskedLimits(10.0, (-0.5, 0.5)))
    assert found is not None
    action = np.float32([0.5, -0.25])
    np.testing.assert_array_equal(found.apply(action), action)


@pytest.mark.parametrize(
    ("asked", "attributes", "message"),
    [
        (
            AskedLimits(1.0, (0.5, 1.0)),
            {"action_limits": (-1, 0)},
            "--action-limit 0.5,1: the action_limits of Arm allow",
        ),
        (AskedLimits(1.0, None, (1.0, 2.0, 3.0)), {}, "--slew-rate 1,2,3: Arm has 2 controls; give one number, or 2"),
        (AskedLimits(1.0, None, (1.0, 2.0)), {"controls": 1}, "--slew-rate 1,2: Arm has 1 control; give one number"),
        (AskedLimits(1.0, None, (1.0,)), {"controls": None}, "--slew-rate 1: Arm has discrete actions; leave it out"),
        (
            AskedLimits(1.0, (0.0, 1.0)),
            {"controls": None},
            "--action-limit 0,1: Arm has discrete actions; leave it out",
        ),
    ],
)
def test_limits_that_do_not_fit_are_refused(asked: AskedLimits, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        limits(asked, **attributes)
    assert str(caught.value).startswith(message)


class Settings:
    """Settings of control in real time."""

    def __init__(self, **changes: Any) -> None:
        self.hz: float | None = 10.0
        self.env_timeout_seconds = 60.0
        self.max_updates_per_step, self.min_updates_per_step, self.rest_after_seconds = 1, 0.2, 1.0
        self.action_limit: tuple[float, float] | None = None
        self.slew_rate: tuple[float, ...] | None = None
        self.control_socket: str | None = None
        for name, value in changes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hz": None, "slew_rate": (1.0,)}, "--slew-rate 1: limits need control in real time; give --hz too"),
        ({"hz": None, "action_limit": (-0.5, 0.5)}, "--action-limit -0.5,0.5: limits need control in real time"),
        ({"action_limit": (0.5, -0.5)}, "--action-limit 0.5,-0.5: give LOW,HIGH from -1 to 1"),
        ({"action_limit": (-2.0, 1.0)}, "--action-limit -2,1: give LOW,HIGH from -1 to 1"),
        ({"slew_rate": (1.0, 0.0)}, "--slew-rate 1,0: give a number above 0"),
        ({"slew_rate": ()}, "--slew-rate : give a number above 0"),
        ({"hz": None, "control_socket": "/run/s"}, "--control-socket /run/s: needs control in real time; give --hz"),
        ({"rest_after_seconds": 0.0}, "--rest-after 0s: give a time above 0s and up to a year"),
        ({"hz": 0.0}, "--hz 0: give a rate from 0.001 to 1000"),
        ({"hz": 0.01}, "--env-timeout 60s: a step waits for a control period of 100 s; give a longer time"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        check_real_time(Settings(**changes))
    assert str(caught.value).startswith(message)
    check_real_time(Settings(slew_rate=(1.0, 2.0), action_limit=(-1.0, 0.5)))


# --- flags -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--action-limit", "-0.5,0.25"], "action_limit", (-0.5, 0.25)),
        (["--action-limit=-1,.5"], "action_limit", (-1.0, 0.5)),
        (["--slew-rate", "2"], "slew_rate", (2.0,)),
        (["--slew-rate", "2,0.5,1e1"], "slew_rate", (2.0, 0.5, 10.0)),
        (["--rest-after", "200ms"], "rest_after", 0.2),
        (["--rest-after", "2s"], "rest_after", 2.0),
        (["--control-socket", "/run/s"], "control_socket", "/run/s"),
        (["--control-socket", "never"], "control_socket", "never"),
    ],
)
def test_flags_and_options_are_read(words: list[str], name: str, value: Any) -> None:
    assert getattr(parse(["train", "--env", "x", *words]), name) == value
    assert getattr(parse(["resume", "run", *words]), name) == value
    text = words[0].partition("=")[2] or words[-1]
    given = list(value) if isinstance(value, tuple) else value
    for option in (text, given):
        assert getattr(ResumeRequest.of(**{name: option}), name) == value


def test_one_number_is_the_slew_rate_of_all_controls() -> None:
    assert ResumeRequest.of(slew_rate=2.5).slew_rate == (2.5,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--action-limit", "0.5"], "--action-limit: '0.5' is not LOW,HIGH; write for example -0.5,0.5"),
        (["--action-limit", "-1,1,1"], "is not LOW,HIGH"),
        (["--action-limit", "a,b"], "is not LOW,HIGH"),
        (["--action-limit", "1,-1"], "'1,-1' has LOW above HIGH; write for example -0.5,0.5"),
        (["--slew-rate", "fast"], "--slew-rate: 'fast' is not a number or a list of them"),
        (["--slew-rate", "1,"], "is not a number or a list of them"),
        (["--rest-after", "200"], "--rest-after: '200' is not a duration; use for example 200ms or 0.2s"),
        (["--control-period", "100"], "--control-period: '100' is not a duration; use for example 200ms or 0.2s"),
        (["--rest-after", "0ms"], "--rest-after: '0ms' is not a duration"),
    ],
)
def test_flags_that_cannot_be_read_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        parse(["train", "--env", "x", *words])


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ({"rest_after": "200ms"}, "--rest-after 0.2s"),
        ({"max_updates_per_step": 2}, "--max-updates-per-step 2"),
        ({"min_updates_per_step": 0.5}, "--min-updates-per-step 0.5"),
    ],
)
def test_flags_of_real_time_are_refused_without_a_rate(option: dict[str, Any], given: str) -> None:
    with pytest.raises(BadInputError) as raised:
        RunRequest.of(env="x", **option).config_options()
    assert str(raised.value) == f"{given}: needs control in real time; give --hz too, or leave it out"
    assert RunRequest.of(env="x", hz=30, **option).config_options()["hz"] == 30
