"""A preset: the hyperparameters of one agent for one task, as data."""

from dataclasses import dataclass, fields

from seer_edge.config.presets.settings import Settings
from seer_edge.validation import check_types


@dataclass(frozen=True)
class Preset:
    """The hyperparameters of the agent `algo` for one task, and where they come from.

    Steps are agent steps, sizes are bytes. Raises ValueError, which begins with the name of the field.
    """

    name: str  # the task's name; that of an agent's default preset is no task's
    source: str
    algo: str
    settings: Settings
    encoder: str
    freeze_at_whole: int  # T_f of a replay that holds the whole run (Figures 2 and 3)
    freeze_at_bounded: int  # T_f of a replay that does not (Figures 4 and 5)
    mem_budget_bytes: int
    total_timesteps: int
    augmentations: int = 1  # K
    action_repeat: int | None = None  # None: the environment's default
    eval_every: int = 10_000
    eval_episodes: int = 10

    def __post_init__(self) -> None:
        check_types(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{field.name} must be at least 1, not {value}")
