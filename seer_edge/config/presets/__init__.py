"""Presets: hyperparameters as data, one entry for each task and agent. No torch.

`settings.py` has the hyperparameters of each agent. `atari.py` and `control.py` have the paper's tables.
"""

from seer_edge.config.presets.atari import ATARI, ATARI_DEFAULT
from seer_edge.config.presets.control import CONTROL, CONTROL_DEFAULT, SAC
from seer_edge.config.presets.dqn import DQN_DEFAULT
from seer_edge.config.presets.preset import Preset
from seer_edge.config.presets.settings import RainbowSettings, SacSettings, Settings

__all__ = ["PRESETS", "Preset", "RainbowSettings", "SacSettings", "Settings", "register_preset"]

PRESETS: dict[tuple[str, str], Preset] = {}
"""Every preset by the lower-case name of its task and the name of its agent."""


def register_preset(preset: Preset) -> None:
    """Add `preset`. It replaces an earlier one of the same task and agent."""
    PRESETS[preset.name.lower(), preset.algo] = preset


for _preset in (*ATARI, ATARI_DEFAULT, *CONTROL, CONTROL_DEFAULT, *SAC, DQN_DEFAULT):
    register_preset(_preset)
