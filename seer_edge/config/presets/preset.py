"""A preset: one task of the paper, as data."""

from dataclasses import dataclass

from seer_edge.config.presets.settings import RainbowSettings, SacSettings


@dataclass(frozen=True)
class Preset:
    """One task: its hyperparameters and where they come from."""

    name: str
    source: str
    algo: str
    settings: RainbowSettings | SacSettings
    encoder: str
    freeze_at_whole: int  # T_f where the replay holds the whole run (Figures 2 and 3)
    freeze_at_bounded: int  # T_f where it does not (Figures 4 and 5)
    mem_budget_bytes: int
    total_timesteps: int
    augmentations: int = 1  # K
    action_repeat: int | None = None  # None: the environment's own
    evaluate_every: int = 10_000
    evaluation_episodes: int = 10
