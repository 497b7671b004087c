"""A preset: the hyperparameters of one task, as data."""

from dataclasses import dataclass
from typing import Annotated

from seer_edge.config.presets.settings import Count, RainbowSettings, SacSettings
from seer_edge.validation import Range, check_types


@dataclass(frozen=True)
class Preset:
    """The hyperparameters of one task and the table that they come from.

    Raises ValueError, with the field's name, for a value of the wrong type or outside of its range.
    """

    name: str
    source: str
    algo: str
    settings: RainbowSettings | SacSettings
    encoder: str
    freeze_at_whole: Count  # T_f if the replay holds the whole run (Figures 2 and 3)
    freeze_at_bounded: Count  # T_f if it does not (Figures 4 and 5)
    mem_budget_bytes: Annotated[int, Range(1, 2**62)]
    total_timesteps: Count
    augmentations: Count = 1  # K
    action_repeat: Annotated[int, Range(1, 10_000)] | None = None  # None: the environment's own
    eval_every: Count = 10_000
    eval_episodes: Count = 10

    def __post_init__(self) -> None:
        check_types(self)
