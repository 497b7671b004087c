"""Options of registered Atari games: those that a user may set, and those that the protocol replaces."""

from collections.abc import Mapping
from typing import Any

from seer_edge.envs.environment import EnvOptions
from seer_edge.envs.names import UnsupportedEnvError, is_bare_name, resolve

FRAMES_PER_STEP = 4
EVERY_ACTION = "full_action_space"
ATARI_KWARGS: Mapping[str, type] = {EVERY_ACTION: bool, "mode": int, "difficulty": int}
"""The options that `--env-kwargs` may set, and their types."""


def checked_kwargs(env: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `kwargs`. Raises UnsupportedEnvError for one that the protocol sets, and for a value of another type."""
    for name, value in kwargs.items():
        if type(value) is not ATARI_KWARGS.get(name):
            known = ", ".join(f"{key} ({kind.__name__})" for key, kind in ATARI_KWARGS.items())
            raise UnsupportedEnvError(
                f"environment {env!r} does not take {name}={value!r} in --env-kwargs; Atari games take {known}"
            )
    return dict(kwargs)


def replaced_options(env: str, options: EnvOptions) -> dict[str, tuple[Any, Any]]:
    """Return the options of the registered game `env` that are played otherwise: the registered and the used value.

    Empty for a bare name such as Alien, with which nobody asks for the registered options, and for other environments.
    """
    env_id = resolve(env)
    if env_id.kind != "atari" or is_bare_name(env, env_id):
        return {}
    import gymnasium

    registered = gymnasium.registry[env_id.registered].kwargs
    used = {
        "frameskip": FRAMES_PER_STEP,
        "repeat_action_probability": 0.0 if options.protocol == "paper" else 0.25,
        EVERY_ACTION: False,
        **(options.kwargs or {}),
    }
    return {name: (registered[name], value) for name, value in used.items() if registered.get(name, value) != value}
