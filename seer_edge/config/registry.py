"""The agents that there are, and which preset a run uses. No torch.

To add an agent, write its `Algorithm` (see `algorithms/rainbow.py`), its presets and its class, then call
`register_algorithm`. `docs/extending.md` has an example.
"""

import math

from seer_edge.config.algorithms.algorithm import Algorithm, EncoderChoice, Networks
from seer_edge.config.algorithms.curl_sac import CURL_SAC, SAC
from seer_edge.config.algorithms.dqn import DQN
from seer_edge.config.algorithms.rainbow import RAINBOW
from seer_edge.config.presets import PRESETS, Preset, Settings, register_preset
from seer_edge.envs import Actions, EnvSpec
from seer_edge.errors import BadInputError
from seer_runtime.system.registry import add_entry

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "Networks",
    "check_actions",
    "check_settings",
    "choose_preset",
    "make_networks",
    "preset_for",
    "register_algorithm",
]

ALGORITHMS: dict[str, Algorithm] = {"rainbow": RAINBOW, "curl-sac": CURL_SAC, "sac": SAC, "dqn": DQN}
"""Every agent by name. A run without --algo uses the first one that takes the environment's actions."""


def register_algorithm(name: str, algorithm: Algorithm, *presets: Preset) -> None:
    """Add an agent and its presets, the default one among them. Raises ValueError where they do not go together."""
    for preset in presets:
        if preset.algo != name:
            raise ValueError(f"preset {preset.name}: is of agent {preset.algo}; give presets of {name}")
        if not isinstance(preset.settings, algorithm.settings):
            raise ValueError(f"preset {preset.name}: its settings are not {algorithm.settings.__name__} of {name}")
    if algorithm.default_preset not in {preset.name for preset in presets}:
        raise ValueError(f"agent {name}: its default preset {algorithm.default_preset} is missing; give it too")
    add_entry(ALGORITHMS, "agent", name, algorithm)
    for preset in presets:
        register_preset(preset)


def check_actions(algo: str, env: EnvSpec) -> None:
    """Raise ValueError where the agent `algo` cannot act in `env`."""
    if not isinstance(env.actions, ALGORITHMS[algo].actions):
        fitting = " or ".join(_agents_for(env.actions))
        raise ValueError(f"{env.name} has {env.actions.kind} actions; use --algo {fitting}")


def check_settings(algo: str, settings: Settings) -> None:
    """Raise ValueError where `settings` are not those of the agent `algo`."""
    algorithm = ALGORITHMS[algo]
    if not isinstance(settings, algorithm.settings):
        raise ValueError(f"the settings are not those of algo {algo}")
    for name, value in algorithm.fixed.items():
        if getattr(settings, name) != value:
            raise ValueError(f"{name} must be {value} with algo {algo}, not {getattr(settings, name)}")


def preset_for(task: str, algo: str) -> Preset:
    """Return the preset of the agent `algo` for `task`, in any case, or the agent's default preset."""
    default = PRESETS[ALGORITHMS[algo].default_preset.lower(), algo]
    return PRESETS.get((task.lower(), algo), default)


def choose_preset(env: EnvSpec, name: str | None = None, algo: str | None = None) -> Preset:
    """Return the preset for `env`: the preset `name`, or the one of the environment's task.

    Without `algo`, the agent is that of the preset `name`, or the first that takes the environment's actions. Raises
    BadInputError where agent, preset and actions do not go together.
    """
    having = [] if name is None else [agent for task, agent in PRESETS if task == name.lower()]
    wanted = algo or next(iter([*having, *_agents_for(env.actions)]))
    try:
        check_actions(wanted, env)
    except ValueError as error:
        raise BadInputError(f"{f'--algo {algo}' if algo else f'--preset {name}'}: {error}") from error
    if name is not None and wanted not in having:
        agents = " or ".join(having) or "no agent"
        raise BadInputError(f"--preset {name}: is a preset of {agents}, not of {wanted}; name another or leave it out")
    return preset_for(name or env.name, wanted)


def make_networks(
    algo: str, settings: Settings, env: EnvSpec, *, encoder: str, frozen_layers: int | None, imported: bool
) -> Networks:
    """Return the sizes of the networks that the agent `algo` has in `env`.

    `encoder`, `frozen_layers` and `imported` are as in `EncoderChoice`. Raises ValueError where they do not fit.
    """
    input_shape = (settings.stack * math.prod(env.frame_shape[:-2]), *env.crop_shape)
    choice = EncoderChoice(encoder, input_shape, frozen_layers, imported)
    return ALGORITHMS[algo].networks(choice, settings, env.actions.outputs)


def _agents_for(actions: Actions) -> list[str]:
    return [name for name, known in ALGORITHMS.items() if isinstance(actions, known.actions)]
