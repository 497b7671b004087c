"""Table 3: Rainbow on Atari."""

from seer_edge.config.presets.preset import Preset
from seer_edge.config.presets.settings import RainbowSettings


def _table_3(name: str, whole: int, bounded: int, source: str = "Table 3") -> Preset:
    return Preset(
        name=name,
        source=source,
        algo="rainbow",
        settings=RainbowSettings(),
        encoder="data-efficient",
        freeze_at_whole=whole,
        freeze_at_bounded=bounded,
        mem_budget_bytes=70_000_000,
        total_timesteps=500_000,
    )


ATARI = (
    _table_3("Alien", 50_000, 100_000),
    _table_3("Amidar", 50_000, 50_000),
    _table_3("BankHeist", 50_000, 50_000),
    _table_3("CrazyClimber", 100_000, 100_000),
    _table_3("Krull", 50_000, 50_000),
    _table_3("Qbert", 100_000, 100_000),
    _table_3("RoadRunner", 50_000, 50_000),
    _table_3("Seaquest", 50_000, 150_000),
)

ATARI_DEFAULT = _table_3("default", 50_000, 100_000, "Table 3, with the freezing times of most of its games")
"""The preset for every other environment with discrete actions."""
