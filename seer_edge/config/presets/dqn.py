"""DQN: the defaults of Stable-Baselines3 (SB3) where they apply here.

What differs from SB3, and why:

| SB3's default | here | why |
|---|---|---|
| `buffer_size` 1,000,000 | the byte budget | as for every agent |
| `train_freq` 4 | an update at every step | runs are short and the replay is small |
| `target_update_interval` 10,000 | `target_update_steps` 2,500 updates | SB3 makes 2,500 updates in 10,000 steps |
| `learning_starts` 50,000 (100 from SB3 2.3 on) | 1,600 | Rainbow's: its runs have the same length and budget |
| the target network takes the maximum | double Q-learning | van Hasselt et al. 2016 |
| NatureCNN | the encoder `data-efficient` | NatureCNN's latents (`canonical`) are larger than frames |
| evaluation without exploration | `evaluation_epsilon` 0.001 | Rainbow's, so that both are evaluated alike |

Rewards are clipped to [-1, 1] as by SB3's `AtariWrapper`. The freezing times are Table 3's.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from seer_edge.config.presets.preset import Preset
from seer_edge.config.presets.settings import Settings


@dataclass(frozen=True)
class DqnSettings(Settings):
    """Hyperparameters of DQN. Those of exploration have SB3's names."""

    hidden: int = 512  # SB3's `features_dim`
    learning_starts: int = 1_600
    learning_rate: float = 1e-4
    reward_clip: float | None = 1.0
    evaluation_epsilon: float = 0.001
    target_update_steps: Annotated[int, "updates between two updates of the target network"] = 2_500
    max_gradient_norm: Annotated[float, "norm to which gradients are clipped"] = 10.0
    exploration_initial_eps: Annotated[float, "probability of a random action at the start"] = 1.0
    exploration_final_eps: Annotated[float, "probability of a random action after it has fallen"] = 0.05
    exploration_fraction: Annotated[float, "part of the run in which the probability falls"] = 0.1
    exploration_steps: Annotated[int | None, "the same in steps; none takes the fraction"] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "target_update_steps")
        self._above_zero("max_gradient_norm")
        self._fractions("exploration_initial_eps", "exploration_final_eps", "exploration_fraction")
        if self.exploration_steps is not None:
            self._at_least(0, "exploration_steps")

    def for_run(self, total_timesteps: int) -> "DqnSettings":
        """Return the settings with `exploration_steps` for a run of `total_timesteps` steps."""
        if self.exploration_steps is not None:
            return self
        return dataclasses.replace(self, exploration_steps=round(self.exploration_fraction * total_timesteps))

    def continued(self) -> "DqnSettings":
        """Return the settings of a run whose imported heads act from the first step, with the final epsilon."""
        return dataclasses.replace(super().continued(), exploration_steps=0)

    def epsilon(self, timestep: int) -> float:
        """Return the probability of a random action after `timestep` steps.

        It falls linearly from `exploration_initial_eps` to `exploration_final_eps` in `exploration_steps`, and stays
        there. Raises ValueError before `for_run`.
        """
        if self.exploration_steps is None:
            raise ValueError("exploration_steps is not known; call for_run first")
        if timestep >= self.exploration_steps:
            return self.exploration_final_eps
        fallen = timestep / self.exploration_steps
        return self.exploration_initial_eps + fallen * (self.exploration_final_eps - self.exploration_initial_eps)


DQN_DEFAULT = Preset(
    name="default",
    source="Stable-Baselines3's DQN defaults, with the freezing times of most games of Table 3",
    algo="dqn",
    settings=DqnSettings(),
    encoder="data-efficient",
    freeze_at_whole=50_000,
    freeze_at_bounded=100_000,
    mem_budget_bytes=70_000_000,
    total_timesteps=500_000,
)
