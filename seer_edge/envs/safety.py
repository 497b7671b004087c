"""What an environment says about the safety of what it moves: how to bring it to rest, and limits of its actions."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.envs.actions import Action, Continuous
from seer_edge.envs.environment import Environment, EnvSpec
from seer_edge.envs.names import UnsupportedEnvError
from seer_edge.errors import BadInputError
from seer_runtime.policy.actions import Bounded
from seer_runtime.policy.pictures import shown_value

REST_AFTER_SECONDS = 1.0
"""How late a step may be before the environment is brought to rest."""
Controls = NDArray[np.float32]
"""One number for each control of a continuous action, float32 `[A]`."""


@dataclass(frozen=True)
class Safety:
    """The optional attributes of an environment that keep what it moves safe.

    Attributes:
        rest: brings everything that moves to rest at once. Returns the action that it sent, in the environment's
            units, or None.
        rest_command: a command line that does the same from another process.
        action_limits: the least and the greatest value of each control, in [-1, 1].
        slew_rate: the most that each control changes in a second.

    """

    rest: Callable[[], object] | None = None
    rest_command: tuple[str, ...] = ()
    action_limits: tuple[Controls, Controls] | None = None
    slew_rate: Controls | None = None


def safety_of(env: Environment) -> Safety:
    """Return what `env` says. Raises UnsupportedEnvError for an attribute that cannot be used."""
    attribute = getattr(env, "env_attribute", None)  # of the Gymnasium environment inside
    return _read(env.spec, attribute or (lambda name: getattr(env, name, None)))


def _read(spec: EnvSpec, attribute: Callable[[str], Any]) -> Safety:
    rest, command, limits, slew = map(attribute, ("rest", "rest_command", "action_limits", "slew_rate"))
    if rest is not None and not callable(rest):
        raise _unusable(spec, "rest", rest, "make it a method")
    for name, value in (("action_limits", limits), ("slew_rate", slew)):
        if value is not None and not isinstance(spec.actions, Continuous):
            raise _unusable(spec, name, value, "only continuous actions have limits; remove it")
    return Safety(
        rest,
        () if command is None else _command(spec, command, rest),
        None if limits is None else _limits(spec, limits),
        None if slew is None else _slew(spec, slew),
    )


def _command(spec: EnvSpec, command: Any, rest: object) -> tuple[str, ...]:
    words = isinstance(command, Sequence) and not isinstance(command, str) and all(isinstance(w, str) for w in command)
    if not words or not command:
        raise _unusable(spec, "rest_command", command, 'give a list of words, such as ["python3", "stop.py"]')
    if rest is None:
        raise _unusable(spec, "rest_command", command, "the environment also needs a method rest")
    if shutil.which(command[0]) is None:
        raise _unusable(spec, "rest_command", command, f"there is no program {command[0]!r}; give its path")
    return tuple(command)


def _limits(spec: EnvSpec, limits: Any) -> tuple[Controls, Controls]:
    try:
        low, high = (_controls(spec, bound) for bound in limits)
    except (TypeError, ValueError):
        low = high = np.array([np.nan], np.float32)
    if not ((low >= -1) & (low <= high) & (high <= 1)).all():
        raise _unusable(spec, "action_limits", limits, "give (low, high), numbers or one for each control, in [-1, 1]")
    return low, high


def _slew(spec: EnvSpec, slew: Any) -> Controls:
    try:
        rate = _controls(spec, slew)
    except (TypeError, ValueError):
        rate = np.zeros(1, np.float32)
    if not ((rate > 0) & (rate < math.inf)).all():
        raise _unusable(spec, "slew_rate", slew, "give a number above 0, or one for each control")
    return rate


def numbers(values: Sequence[float]) -> str:
    """Return numbers as flags write them."""
    return ",".join(f"{value:g}" for value in values)


def _unusable(spec: EnvSpec, name: str, value: object, hint: str) -> UnsupportedEnvError:
    return UnsupportedEnvError(f"environment {spec.id!r}: its {name} is {shown_value(value)}; {hint}")


def _controls(spec: EnvSpec, value: Any) -> Controls:
    """Return `value`, one number or one for each control. Raises ValueError, TypeError."""
    numbers = np.asarray(value, np.float32).ravel()
    return np.array(np.broadcast_to(numbers, spec.actions.shape))


def action_at_rest(spec: EnvSpec, sent: Any) -> Action | None:
    """Return the agent's action for what `rest` returned; None where actions are discrete.

    Without an answer it is 0 in the environment's units, or the bound nearest to that. Raises ValueError or TypeError
    where `sent` is no action.
    """
    if not isinstance(spec.actions, Continuous):
        return None
    size = spec.actions.size
    own = spec.own_actions
    if not isinstance(own, Bounded):
        own = Bounded((size,), "float32", size * (-1.0,), size * (1.0,))
    return own.of_agent(np.zeros(own.shape) if sent is None else sent)


@dataclass(frozen=True)
class AskedLimits:
    """The limits of a run's flags.

    Attributes:
        hz: control ticks a second.
        action_limit: low and high of every control, in [-1, 1].
        slew_rate: most change of a control in a second: one number, or one for each control.
        rest_after_seconds: how late a step may be before the environment is brought to rest.

    """

    hz: float
    action_limit: tuple[float, float] | None = None
    slew_rate: tuple[float, ...] | None = None
    rest_after_seconds: float = REST_AFTER_SECONDS

    def flags(self) -> str:
        """Return the flags that ask for these limits."""
        flags = f"--hz {self.hz:g}"
        for flag, values in (("--action-limit", self.action_limit), ("--slew-rate", self.slew_rate)):
            flags += "" if values is None else f" {flag}={numbers(values)}"
        return flags

    def lacks(self, other: "AskedLimits") -> bool:
        """Return whether `other` limits something that these limits leave free."""
        return any(
            limit is None and others is not None
            for limit, others in ((self.action_limit, other.action_limit), (self.slew_rate, other.slew_rate))
        )


class LimitsError(BadInputError):
    """Limits do not fit the actions or each other. `reason` says why, without what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason}; {hint}")
        self.reason = reason


class Limits:
    """Limits of continuous actions and of how fast they change.

    Attributes:
        last: the action that was executed last.

    """

    def __init__(self, low: Controls, high: Controls, change: Controls) -> None:
        """`change` is the most change in one step. All are float32 `[A]`."""
        self.low, self.high, self.change = low, high, change
        self.last = np.zeros_like(low)

    def apply(self, action: Any) -> Controls:
        """Return the action nearest to `action` that the limits allow, and remember it as `last`."""
        near = np.clip(action, self.last - self.change, self.last + self.change)
        self.last = np.clip(near, self.low, self.high).astype(np.float32)
        return self.last


def limits_of(spec: EnvSpec, safety: Safety, asked: AskedLimits) -> Limits | None:
    """Return the tighter of the limits of the environment and of the flags; None without any.

    Raises LimitsError where they do not fit the actions or each other.
    """
    given, slew = asked.action_limit, asked.slew_rate
    if not isinstance(spec.actions, Continuous):
        for flag, values in (("--action-limit", given), ("--slew-rate", slew)):
            if values is not None:
                raise LimitsError(f"{flag} {numbers(values)}: {spec.name} has discrete actions", "leave it out")
        return None
    if all(limit is None for limit in (given, slew, safety.action_limits, safety.slew_rate)):
        return None
    size = spec.actions.size
    low, high = safety.action_limits or (np.full(size, -1, np.float32), np.full(size, 1, np.float32))
    if given is not None:
        low, high = np.maximum(low, np.float32(given[0])), np.minimum(high, np.float32(given[1]))
        if not (low <= high).all():
            raise LimitsError(
                f"--action-limit {numbers(given)}: the action_limits of {spec.name} allow none of these actions",
                "give limits within those",
            )
    rate = np.full(size, np.inf, np.float32) if safety.slew_rate is None else safety.slew_rate
    if slew is not None:
        if len(slew) not in (1, size):
            count, hint = ("1 control", "") if size == 1 else (f"{size} controls", f", or {size}")
            raise LimitsError(f"--slew-rate {numbers(slew)}: {spec.name} has {count}", f"give one number{hint}")
        rate = np.minimum(rate, _controls(spec, slew))
    return Limits(low, high, rate / np.float32(asked.hz))
