"""Presets: the paper's hyperparameters as data, one entry a task."""

from seer_edge.config.presets.atari import ATARI, ATARI_DEFAULT
from seer_edge.config.presets.control import CONTROL, CONTROL_DEFAULT
from seer_edge.config.presets.preset import Preset
from seer_edge.config.presets.settings import RainbowSettings, SacSettings, Settings

__all__ = ["PRESETS", "Preset", "RainbowSettings", "SacSettings", "Settings", "preset_for"]

PRESETS = {preset.name.lower(): preset for preset in (*ATARI, *CONTROL, ATARI_DEFAULT, CONTROL_DEFAULT)}
"""By name in lower case."""


def preset_for(name: str, *, continuous: bool) -> Preset:
    """The preset of the task `name` in any case, or the default for a task that neither table has."""
    return PRESETS.get(name.lower(), CONTROL_DEFAULT if continuous else ATARI_DEFAULT)
