"""Hyperparameters of the agents; the defaults are the paper's tables'."""

from dataclasses import dataclass

from seer_edge.validation import check_types


@dataclass(frozen=True)
class Settings:
    """What the loop and the replay ask of any agent."""

    batch_size: int = 32
    n_step: int = 1
    gamma: float = 0.99
    stack: int = 4
    hidden: int = 256
    learning_starts: int = 1_000  # steps before the first update
    random_steps: int = 0  # of them, those with random actions
    learning_rate: float = 1e-3
    reward_clip: float | None = None
    evaluation_epsilon: float = 0.0
    priority_exponent: float = 0.5
    priority_weight_start: float = 0.4

    def __post_init__(self) -> None:
        check_types(self)
        self._at_least_one("batch_size", "n_step", "stack", "hidden")
        self._fractions("gamma", "evaluation_epsilon")

    def _at_least_one(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    def _fractions(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")


@dataclass(frozen=True)
class RainbowSettings(Settings):
    """Rainbow's: Table 3 (data-efficient Rainbow, van Hasselt et al. 2019)."""

    n_step: int = 20
    learning_starts: int = 1_600
    target_update_steps: int = 2_000
    # Table 3 says 1e-3; the released scripts and data-efficient Rainbow use 1e-4.
    learning_rate: float = 1e-4
    # The following are not in Table 3 and are those of the released code.
    reward_clip: float | None = 1.0
    evaluation_epsilon: float = 0.001
    adam_epsilon: float = 1.5e-4
    atoms: int = 51
    value_range: tuple[float, float] = (-10.0, 10.0)
    noisy_sigma: float = 0.1
    max_gradient_norm: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("target_update_steps")
        if self.atoms < 2 or not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"{self.atoms} atoms over {self.value_range}: at least 2 over a range that rises")


@dataclass(frozen=True)
class SacSettings(Settings):
    """CURL + SAC's: Table 2."""

    batch_size: int = 128
    stack: int = 3
    hidden: int = 1024
    random_steps: int = 1_000
    features: int = 50  # L, "latent dimension"
    alpha_learning_rate: float = 1e-4
    alpha_beta1: float = 0.5
    initial_temperature: float = 0.1
    target_tau: float = 0.01
    encoder_tau: float = 0.05
    target_update_steps: int = 2
    contrastive: bool = True  # the CURL loss
    # The following are not in Table 2 and are those of CURL's code.
    actor_update_steps: int = 2
    log_std_range: tuple[float, float] = (-10.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least_one("features", "target_update_steps", "actor_update_steps")
        self._fractions("alpha_beta1", "target_tau", "encoder_tau")
        if not self.log_std_range[0] < self.log_std_range[1]:
            raise ValueError(f"log_std_range {self.log_std_range} must rise")
        if self.initial_temperature <= 0:
            raise ValueError(f"initial_temperature must be positive, not {self.initial_temperature}")
