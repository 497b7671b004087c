"""Hyperparameters of the agents. The defaults are those of the paper's tables."""

import math
from dataclasses import dataclass, field
from typing import Annotated

from seer_edge.validation import COUNT, FRACTION, POSITIVE, STEPS, Range, check_types

Count = Annotated[int, COUNT]
Steps = Annotated[int, STEPS]
Fraction = Annotated[float, FRACTION]
Positive = Annotated[float, POSITIVE]


@dataclass(frozen=True)
class Settings:
    """Hyperparameters that the training loop and the replay need of every agent.

    The annotation of a field states its range. Raises ValueError, with the field's name, for any other value.
    """

    batch_size: Annotated[int, Range(1, 65_536)] = 32
    n_step: Annotated[int, Range(1, 10_000)] = 1
    gamma: Fraction = 0.99
    stack: Annotated[int, Range(1, 64)] = 4
    hidden: Annotated[int, Range(1, 65_536)] = 256
    learning_starts: Steps = 1_000  # steps before the first update
    random_steps: Steps = 0  # steps at the start that take random actions
    learning_rate: Positive = 1e-3
    reward_clip: Positive | None = None
    evaluation_epsilon: Fraction = 0.0
    priority_exponent: Fraction = 0.5
    priority_weight_start: Fraction = 0.4

    def __post_init__(self) -> None:
        check_types(self)


@dataclass(frozen=True)
class RainbowSettings(Settings):
    """Hyperparameters of Rainbow: Table 3 (data-efficient Rainbow, van Hasselt et al. 2019)."""

    n_step: Annotated[int, Range(1, 10_000)] = 20
    learning_starts: Steps = 1_600
    target_update_steps: Count = 2_000
    # Table 3 says 1e-3. The released scripts and data-efficient Rainbow use 1e-4.
    learning_rate: Positive = 1e-4
    # The following are not in Table 3. Their values are those of the released code.
    reward_clip: Positive | None = 1.0
    evaluation_epsilon: Fraction = 0.001
    adam_epsilon: Positive = 1.5e-4
    atoms: Annotated[int, Range(2, 10_001)] = 51
    value_range: tuple[float, float] = (-10.0, 10.0)
    noisy_sigma: Annotated[float, Range(0, 1e9)] = 0.1
    max_gradient_norm: Positive = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rising("value_range", self.value_range)


@dataclass(frozen=True)
class SacSettings(Settings):
    """Hyperparameters of CURL + SAC: Table 2."""

    batch_size: Annotated[int, Range(1, 65_536)] = 128
    stack: Annotated[int, Range(1, 64)] = 3
    hidden: Annotated[int, Range(1, 65_536)] = 1024
    random_steps: Steps = 1_000
    features: Annotated[int, Range(1, 65_536)] = 50  # L, "latent dimension"
    alpha_learning_rate: Positive = 1e-4
    alpha_beta1: Fraction = 0.5
    initial_temperature: Positive = 0.1
    target_tau: Fraction = 0.01
    encoder_tau: Fraction = 0.05
    target_update_steps: Count = 2
    contrastive: bool = field(default=True, metadata={"follows": "--algo"})  # the CURL loss
    # The following are not in Table 2. Their values are those of CURL's code.
    actor_update_steps: Count = 2
    log_std_range: tuple[float, float] = (-10.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_rising("log_std_range", self.log_std_range)


def _check_rising(name: str, bounds: tuple[float, float]) -> None:
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"{name} {list(bounds)}: give a lower and a higher number")
