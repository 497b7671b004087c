"""A preset: the hyperparameters of one agent for one task, as data."""

from dataclasses import dataclass, fields
from typing import Annotated

from seer_edge.config.presets.settings import Settings
from seer_edge.validation import check_types


@dataclass(frozen=True)
class Preset:
    """The hyperparameters of the agent `algo` for one task, and where they come from.

    Steps are agent steps, sizes are bytes. Raises ValueError, which begins with the name of the field.
    """

    name: str  # the task's name; that of an agent's default preset is no task's
    source: str
    algo: Annotated[str, "agent"]
    settings: Settings
    encoder: Annotated[str, "convolutional encoder"]
    freeze_at_whole: Annotated[int, "step of the freeze if the replay holds the whole run (T_f, Figures 2 and 3)"]
    freeze_at_bounded: Annotated[int, "step of the freeze if it does not (T_f, Figures 4 and 5)"]
    mem_budget_bytes: Annotated[int, "bytes of observations"]
    total_timesteps: Annotated[int, "length of the run in agent steps"]
    augmentations: Annotated[int, "random crops stored for each latent row (K)"] = 1
    action_repeat: Annotated[int | None, "environment steps in one agent step; none keeps the environment's own"] = None
    eval_every: Annotated[int, "agent steps between evaluations"] = 10_000
    eval_episodes: Annotated[int, "episodes of each evaluation"] = 10

    def __post_init__(self) -> None:
        check_types(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{field.name} must be at least 1, not {value}")
