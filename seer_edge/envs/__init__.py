"""Environments: Atari, DeepMind Control and Gymnasium behind one interface of uint8 frames and raw rewards.

May import `errors` and `validation` of seer_edge only, and no torch.
Start with `environment.py` (the interface) and `make_env` below, then `names.py` (what a user may call an environment).
"""

from seer_edge.envs.actions import Action, Actions, Continuous, Discrete
from seer_edge.envs.environment import (
    SEEDS,
    Environment,
    EnvOptions,
    EnvSpec,
    Episode,
    Frame,
    ProtocolName,
    Step,
)
from seer_edge.envs.families import FAMILIES, register_family
from seer_edge.envs.names import (
    EnvError,
    EnvId,
    ResolutionError,
    UnavailableEnvError,
    UnknownEnvError,
    UnsupportedEnvError,
    ViewError,
    resolve,
)
from seer_edge.envs.ticks import next_tick
from seer_runtime.policy.preprocess import Color

__all__ = [
    "Action",
    "Actions",
    "Continuous",
    "Discrete",
    "EnvError",
    "EnvId",
    "EnvOptions",
    "EnvSpec",
    "Environment",
    "Episode",
    "Frame",
    "ProtocolName",
    "ResolutionError",
    "Step",
    "UnavailableEnvError",
    "UnknownEnvError",
    "UnsupportedEnvError",
    "ViewError",
    "make_env",
    "next_tick",
    "register_family",
    "resolve",
]


def make_env(env: str, options: EnvOptions, *, seed: int, training: bool) -> Environment:
    """Build the environment named `env`. The same arguments give the same trajectory.

    Atari under "paper" has no sticky actions and starts a game with 0 to 29 no-ops. In training a lost life ends the
    episode, while the game and its scene continue. Atari under "machado" has sticky actions, no no-ops, and episodes
    that are whole games. Other environments ignore `training`.

    With `options.gray_levels` all frames are reduced to so many gray levels.

    Raises EnvError where the environment cannot be built (ResolutionError for a bad resolution) and ValueError for an
    unknown protocol.
    """
    if options.protocol not in ("paper", "machado"):
        raise ValueError(f"unknown protocol {options.protocol!r}; use paper or machado")
    env_id = resolve(env)
    _check_view(env_id, options)
    environment = _build(env_id, options, seed=seed, training=training)
    if options.gray_levels is None:
        return environment
    from seer_edge.envs.reduced_frames import ReducedFrames

    return ReducedFrames(environment, options.gray_levels)


def _build(env_id: EnvId, options: EnvOptions, *, seed: int, training: bool) -> Environment:
    match env_id.kind:
        case "atari":
            from seer_edge.envs.atari import Atari

            paper = options.protocol == "paper"
            return Atari(
                env_id,
                seed=seed,
                sticky=0.0 if paper else 0.25,
                noops_max=29 if paper else 0,
                life_loss_ends=paper and training,
                resolution=options.resolution,
                resize=options.resize or ("bilinear" if paper else "area"),
                blank_at_lost_life=options.blank_at_lost_life,
                kwargs=options.kwargs,
            )
        case "control":
            from seer_edge.envs.control import Control

            return Control(env_id, seed=seed, action_repeat=options.action_repeat, resolution=options.resolution)
        case "gymnasium":
            from seer_edge.envs.gym_pixels import GymPixels

            return GymPixels(
                env_id,
                seed=seed,
                resolution=options.resolution,
                color=options.color,
                render=options.render,
                resize=options.resize or "area",
                obs_key=options.obs_key,
                kwargs=options.kwargs,
            )
        case family:
            make = FAMILIES[family].make
            environment: Environment = make(env_id.registered, options, seed=seed % SEEDS, training=training)
            if environment.spec.id != env_id.id:  # checkpoints and evaluations open it by this name
                environment.close()
                raise UnsupportedEnvError(
                    f"environment {env_id.id!r}: its spec has the id {environment.spec.id!r}; give it {env_id.id!r}"
                )
            return environment


def _check_view(env_id: EnvId, options: EnvOptions) -> None:
    """Raise UnsupportedEnvError for an option that Atari and control tasks do not offer."""
    if env_id.kind not in ("atari", "control"):
        return
    offered: Color = "gray" if env_id.kind == "atari" else "rgb"
    if options.color not in (None, offered):
        raise ViewError(f"{env_id.name} has {offered} frames only, not {options.color}", "leave --color out")
    if options.render:
        raise ViewError(f"{env_id.name} already observes images", "leave --render-observations out")
    if options.obs_key is not None:
        raise ViewError(f"{env_id.name} observes one image, not {options.obs_key!r}", "leave --obs-key out")
    if options.kwargs and env_id.kind == "control":
        raise UnsupportedEnvError(f"environment {env_id.id!r} is a control task; leave --env-kwargs out")
