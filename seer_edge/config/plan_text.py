"""Lines of a plan that say in words what a run does."""

from seer_edge.config.config import TrainConfig
from seer_runtime.system.units import counted


def evaluation_cost(config: TrainConfig) -> str:
    """Return what one evaluation may cost."""
    episodes, limit = config.eval_episodes, config.eval_limit_steps
    return f"{counted(episodes, 'episode')} of at most {limit:,} steps, at most {episodes * limit:,} steps"


def evaluation_text(config: TrainConfig) -> str:
    """Return when and where the run is evaluated, and what that may cost."""
    if config.eval_every is None:
        return "never"
    place = "the training environment, between episodes" if config.evaluates_in_training else "a separate environment"
    often = f"every {config.eval_every:,} steps and " if config.eval_every < config.total_timesteps else ""
    ends = "" if config.stop_at_return is None else f"; the run ends at a mean return of {config.stop_at_return:g}"
    return f"{often}at the end, in {place}: {evaluation_cost(config)}{ends}"


def reward_text(config: TrainConfig) -> str:
    """Return how rewards are clipped for learning."""
    clip = config.settings.reward_clip
    if clip is not None:
        return f"clipped to [-{clip:g}, {clip:g}] for learning"
    return "not clipped; scale them to about 1 a step, or clip them with --set reward_clip=1"
