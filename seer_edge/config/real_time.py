"""Checks of the settings of control in real time."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Protocol

from seer_edge.envs.safety import AskedLimits, numbers
from seer_edge.errors import BadInputError
from seer_runtime.system.manifest_reader import ManifestReader
from seer_runtime.system.units import MAX_SECONDS

HZ_MIN, HZ_MAX = 0.001, 1_000
SLEW_MAX = 1e6
"""Limit of --slew-rate. At the highest rate, 2,000 already lets a control go from -1 to 1 in a step."""
FEED_FRAMES_MIN, FEED_FRAMES_MAX = 8, 4_096
"""Frames in the queue from the control thread to the learner, at least and at most."""
SPARE_BYTES = 1_000_000
"""Workspace that the queue leaves free."""
_NEEDS_RATE = {"rest_after_seconds": "s", "max_updates_per_step": "", "min_updates_per_step": ""}
"""Settings that only control in real time uses, and their units."""
_ENTRY = "real_time"
_GIVE_RATE = "needs control in real time; give --hz too, or leave it out"


class RealTimeSettings(Protocol):
    """The settings of a run that control in real time uses. See `TrainConfig`."""

    @property
    def hz(self) -> float | None: ...  # noqa: D102
    @property
    def env_timeout_seconds(self) -> float: ...  # noqa: D102
    @property
    def max_updates_per_step(self) -> int: ...  # noqa: D102
    @property
    def min_updates_per_step(self) -> float: ...  # noqa: D102
    @property
    def rest_after_seconds(self) -> float: ...  # noqa: D102
    @property
    def action_limit(self) -> tuple[float, float] | None: ...  # noqa: D102
    @property
    def slew_rate(self) -> tuple[float, ...] | None: ...  # noqa: D102
    @property
    def control_socket(self) -> str | None: ...  # noqa: D102


def check_real_time(settings: RealTimeSettings) -> None:
    """Raise BadInputError, which names the flag, for a value that cannot be used."""
    hz, most, least = settings.hz, settings.max_updates_per_step, settings.min_updates_per_step
    check_rate(hz)
    check_period(hz, settings.env_timeout_seconds)
    _require(most >= 1, "--max-updates-per-step", most, "give a whole number of at least 1")
    _require(0 <= least < math.inf, "--min-updates-per-step", f"{least:g}", "give a number of at least 0")
    _require(least <= most, "--min-updates-per-step", f"{least:g}", f"give at most --max-updates-per-step {most}")
    for flag, values in (("--action-limit", settings.action_limit), ("--slew-rate", settings.slew_rate)):
        limited = values is None or hz is not None
        _require(
            limited, flag, numbers(values or ()), "limits need control in real time; give --hz too, or leave it out"
        )
    path = settings.control_socket
    _require(path is None or hz is not None, "--control-socket", path, _GIVE_RATE)
    _check_limits(settings.rest_after_seconds, settings.action_limit, settings.slew_rate)


def _check_limits(late: float, limit: tuple[float, float] | None, slew: tuple[float, ...] | None) -> None:
    _require(0 < late <= MAX_SECONDS, "--rest-after", f"{late:g}s", "give a time above 0s and up to a year")
    if limit is not None:
        within = -1 <= limit[0] <= limit[1] <= 1
        _require(within, "--action-limit", numbers(limit), "give LOW,HIGH from -1 to 1, such as -0.5,0.5")
    if slew is not None:
        fits = bool(slew) and all(0 < rate <= SLEW_MAX for rate in slew)
        hint = f"give a number above 0 and up to {SLEW_MAX:,.0f}, or one for each control"
        _require(fits, "--slew-rate", numbers(slew), hint)


def check_rate(hz: float | None) -> None:
    """Raise BadInputError for a rate that cannot be used."""
    if hz is not None:
        _require(HZ_MIN <= hz <= HZ_MAX, "--hz", f"{hz:g}", f"give a rate from {HZ_MIN} to {HZ_MAX}")


def check_period(hz: float | None, timeout_seconds: float) -> None:
    """Raise BadInputError if a step waits for its tick longer than it may take."""
    if hz is not None:
        hint = f"a step waits for a control period of {1 / hz:g} s; give a longer time"
        _require(timeout_seconds > 1 / hz, "--env-timeout", f"{timeout_seconds:g}s", hint)


def check_rate_given(hz: float | None, given: Mapping[str, Any]) -> None:
    """Raise BadInputError if a run is given a setting that needs control in real time, or that this cannot follow.

    `given` has fields of `TrainConfig` by name.
    """
    for name, unit in _NEEDS_RATE.items():
        if hz is None and name in given:
            flag = "--" + name.removesuffix("_seconds").replace("_", "-")
            raise BadInputError(f"{flag} {given[name]:g}{unit}: {_GIVE_RATE}")
    if hz is not None and given.get("eval_in") == "separate":
        raise BadInputError("--eval-in separate: evaluations of a run with --hz play its own environment; leave it out")


def limits_asked(settings: RealTimeSettings) -> AskedLimits | None:
    """Return the limits of actions that the flags ask for; None without control in real time."""
    if settings.hz is None:
        return None
    return AskedLimits(settings.hz, settings.action_limit, settings.slew_rate, settings.rest_after_seconds)


def to_manifest(asked: AskedLimits | None) -> dict[str, Any]:
    """Return the entry of a bundle's manifest from which the policy of a run in real time is played as it was."""
    return {} if asked is None else {_ENTRY: dataclasses.asdict(asked)}


def from_manifest(about: Mapping[str, Any]) -> AskedLimits | None:
    """Return the limits of a bundle's manifest; None without control in real time. Raises ValueError."""
    if _ENTRY not in about:
        return None
    fields = ManifestReader(about)
    fields.record(_ENTRY, {field.name for field in dataclasses.fields(AskedLimits)})

    def numbers_of(name: str, count: int | None = None) -> tuple[float, ...] | None:
        return None if fields.value(f"{_ENTRY}.{name}") is None else fields.numbers(f"{_ENTRY}.{name}", count)

    low_high = numbers_of("action_limit", 2)
    asked = AskedLimits(
        fields.number(f"{_ENTRY}.hz", HZ_MIN, HZ_MAX),
        None if low_high is None else (low_high[0], low_high[1]),
        numbers_of("slew_rate"),
        fields.number(f"{_ENTRY}.rest_after_seconds", 0, MAX_SECONDS),
    )
    try:
        _check_limits(asked.rest_after_seconds, asked.action_limit, asked.slew_rate)
    except BadInputError as error:
        raise ValueError(f"{_ENTRY}: {error}") from error
    return asked


def _require(holds: bool, flag: str, value: object, hint: str) -> None:
    if not holds:
        raise BadInputError(f"{flag} {value}: {hint}")
