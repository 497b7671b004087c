"""Hyperparameters of the agents. The defaults are those of the paper's tables.

The annotation of each field says what it means, which docs/cli.md and preset files show. A class that only changes a
default need not repeat it. Every class checks its values where it is built, and every message begins with the name of
the field.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from seer_edge.validation import check_types
from seer_runtime.policy.bundle import STACK_MAX

VALUE_MAX = 1e30
"""Limit on a return of the distribution. float32 must hold its range."""


@dataclass(frozen=True)
class Settings:
    """The hyperparameters that the training loop and the replay read from every agent. Raises ValueError."""

    INITIAL: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that only the first networks depend on. A run that has begun has no use for them."""

    batch_size: Annotated[int, "windows in one update"] = 32
    n_step: Annotated[int, "rewards that are summed before the value is bootstrapped"] = 1
    gamma: Annotated[float, "discount of a reward one step later"] = 0.99
    stack: Annotated[int, "frames in one observation"] = 4
    hidden: Annotated[int, "width of the hidden layers of the heads"] = 256
    learning_starts: Annotated[int, "steps before the first update"] = 1_000
    random_steps: Annotated[int, "steps at the start that take uniformly random actions"] = 0
    learning_rate: Annotated[float, "step size of Adam"] = 1e-3
    reward_clip: Annotated[float | None, "rewards are clipped to minus and plus this value for learning"] = None
    evaluation_epsilon: Annotated[float, "probability of a random action in evaluations"] = 0.0
    priority_exponent: Annotated[float, "how strongly priorities count (alpha, Schaul et al. 2016)"] = 0.5
    priority_weight_start: Annotated[float, "importance-sampling exponent at the start (beta); it rises to 1"] = 0.4

    def __post_init__(self) -> None:
        check_types(self)
        self._at_least(1, "batch_size", "n_step", "stack", "hidden")
        self._at_least(0, "learning_starts", "random_steps", "learning_rate", "priority_exponent")
        if self.stack > STACK_MAX:  # of a bundle
            raise ValueError(f"stack must be at most {STACK_MAX}, not {self.stack}")
        self._fractions("gamma", "evaluation_epsilon", "priority_weight_start")
        if self.reward_clip is not None:
            self._above_zero("reward_clip")

    def for_run(self, total_timesteps: int) -> Self:
        """Return the settings of a run of `total_timesteps` steps.

        Override this where a setting is a fraction of the run's length.
        """
        return self

    def continued(self) -> Self:
        """Return the settings of a run whose imported heads act from the first step.

        Override this where an agent has other random actions at the start.
        """
        return dataclasses.replace(self, random_steps=0)

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= least:  # rejects NaN too
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    def _above_zero(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    def _fractions(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], not {getattr(self, name)}")

    def _rising(self, *names: str) -> None:
        for name in names:
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name} must rise, and {low} is not below {high}")


@dataclass(frozen=True)
class RainbowSettings(Settings):
    """Hyperparameters of Rainbow: Table 3 (data-efficient Rainbow, van Hasselt et al. 2019)."""

    INITIAL = ("noisy_sigma",)

    n_step: int = 20
    learning_starts: int = 1_600
    target_update_steps: Annotated[int, "updates between two updates of the target network"] = 2_000
    # Table 3 says 1e-3. The released scripts and data-efficient Rainbow use 1e-4.
    learning_rate: float = 1e-4
    # The following are not in Table 3. They are those of the released code.
    reward_clip: float | None = 1.0
    evaluation_epsilon: float = 0.001
    adam_epsilon: Annotated[float, "epsilon of Adam"] = 1.5e-4
    atoms: Annotated[int, "atoms of the distribution of returns (C51)"] = 51
    value_range: Annotated[tuple[float, float], "smallest and largest return of the distribution"] = (-10.0, 10.0)
    noisy_sigma: Annotated[float, "initial noise of the noisy layers (sigma_0)"] = 0.1
    max_gradient_norm: Annotated[float, "norm to which gradients are clipped"] = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "target_update_steps")
        self._at_least(2, "atoms")
        self._at_least(0, "noisy_sigma")
        self._above_zero("adam_epsilon", "max_gradient_norm")
        self._rising("value_range")
        if max(map(abs, self.value_range)) > VALUE_MAX:
            raise ValueError(f"value_range must be within {-VALUE_MAX:g} and {VALUE_MAX:g}, not {self.value_range}")


@dataclass(frozen=True)
class SacSettings(Settings):
    """Hyperparameters of CURL + SAC: Table 2."""

    INITIAL = ("initial_temperature",)

    batch_size: int = 128
    stack: int = 3
    hidden: int = 1024
    random_steps: int = 1_000
    features: Annotated[int, "width of a latent (L)"] = 50  # L, the table's "latent dimension"
    alpha_learning_rate: Annotated[float, "step size of Adam for the temperature"] = 1e-4
    alpha_beta1: Annotated[float, "beta1 of Adam for the temperature"] = 0.5
    initial_temperature: Annotated[float, "weight of the entropy at the start (alpha)"] = 0.1
    target_tau: Annotated[float, "part of the critic that its target takes over in each target update"] = 0.01
    encoder_tau: Annotated[float, "the same for the encoder"] = 0.05
    target_update_steps: Annotated[int, "updates between two updates of the target network"] = 2
    contrastive: Annotated[bool, "whether the agent learns with CURL's contrastive loss"] = True
    # The following are not in Table 2. They are those of CURL's code.
    actor_update_steps: Annotated[int, "updates of the critic for each one of the actor"] = 2
    log_std_range: Annotated[tuple[float, float], "smallest and largest log standard deviation of an action"] = (
        -10.0,
        2.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "features", "target_update_steps", "actor_update_steps")
        self._at_least(0, "alpha_learning_rate")
        self._fractions("alpha_beta1", "target_tau", "encoder_tau")
        self._above_zero("initial_temperature")
        self._rising("log_std_range")
