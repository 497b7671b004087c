"""Floating-point operations as the paper counts them (Appendix C): multiply-adds, a backward pass twice a forward one.

Every step counts as one iteration with an update, warm-up included, as on the paper's axes. Elementwise work,
normalisation and the logits of the contrastive loss (less than 0.1 %) are left out.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass


class FlopsModel(ABC):
    """What one iteration costs, before the freeze and after it."""

    frame_capacity: int  # C

    @property
    @abstractmethod
    def before_freeze(self) -> int:
        """Of one iteration."""

    @property
    @abstractmethod
    def after_freeze(self) -> int:
        """Of one iteration."""

    @property
    @abstractmethod
    def conversion_row(self) -> int:
        """Of one row at the freeze."""

    def conversion(self, freeze_at: int) -> int:
        """One-time cost of the freeze for min(T_f, C) rows, as the paper has it; a few are dropped, not encoded."""
        return self.conversion_row * min(freeze_at, self.frame_capacity)

    def total(self, timestep: int, freeze_at: int | None) -> int:
        """Of all iterations up to `timestep`, with the conversion once `timestep` has reached `freeze_at`."""
        if freeze_at is None or timestep < freeze_at:
            return timestep * self.before_freeze
        latent_steps = timestep - freeze_at
        return freeze_at * self.before_freeze + self.conversion(freeze_at) + latent_steps * self.after_freeze


@dataclass(frozen=True)
class QLearningFlops(FlopsModel):
    """Rainbow: the online network on s and s', the target network on s', backward through s. F = 3, B = 1."""

    encoder: int  # E, multiply-adds of one encoder pass
    frozen: int  # of them, those of the frozen layers: all of E, unless --freeze-layers says less
    head: int  # M, of all layers behind the encoder
    batch_size: int  # b
    frame_capacity: int
    latent_replay: bool = True  # whether the replay holds what the frozen layers give

    forwards = 3
    backwards = 1

    @property
    def before_freeze(self) -> int:
        """bF(E + M) + 2bB(E + M) + (E + M)."""
        both = self.encoder + self.head
        return self.batch_size * (self.forwards + 2 * self.backwards) * both + both

    @property
    def after_freeze(self) -> int:
        """BFM + 2bBM + (E + M) + EKN with K = N = 1, where all of E is frozen.

        Where it is not, what trains of E counts with M. Over a replay of pixels the frozen layers see s and s' in
        every update, and nothing is encoded to be stored.
        """
        trained = self.encoder - self.frozen + self.head
        learning = self.batch_size * (self.forwards + 2 * self.backwards) * trained
        frozen = self.frozen if self.latent_replay else 2 * self.batch_size * self.frozen
        return learning + self.encoder + self.head + frozen

    @property
    def conversion_row(self) -> int:
        """EKN with K = N = 1."""
        return self.frozen if self.latent_replay else 0


@dataclass(frozen=True)
class ActorCriticFlops(FlopsModel):
    """CURL + SAC, counted from what an update does, since the paper gives no F and B for it.

    Passes an update, a step of the actor being every second one:

    | | trunk | fc | actor | Q |
    |---|---|---|---|---|
    | critic on o, forward and backward | 1 + B | 1 + B | | 2 + 2B |
    | actor and target critic on o' | 2 | 2 | 1 | 2 |
    | actor step on o, backward through Q to its actions only | | 1/2 (1 + B) | 1/2 (1 + B) | 1/2 (2 + B) |
    | CURL's query, forward and backward, and key | 2 + B | 2 + B | | |

    with B = 2. The actor's step takes trunk and critic's fc from the query's pass; without CURL it makes one of its
    own. Convolutions are tied, so one pass of the trunk serves actor and critic: the paper's EKN would count it N
    times.
    """

    trunk: int  # multiply-adds of the tied convolutions
    frozen_trunk: int  # of them, those of the frozen layers
    fc: int  # of one network's fully connected layer
    fc_frozen: bool
    actor: int
    q: int  # of one of the two Q functions
    batch_size: int
    augmentations: int  # K
    contrastive: bool
    frame_capacity: int
    latent_replay: bool = True

    @property
    def _head(self) -> int:
        actor = 1 + 0.5 * 3
        q = (2 + 4) + 2 + 0.5 * (2 + 2)
        return round(self.batch_size * (actor * self.actor + q * self.q))

    def _encoder(self, trunk: int) -> int:
        """Forward and backward of `trunk` and the fcs in one update."""
        passes = 3 + 2 + (4 if self.contrastive else 0.5)
        return round(self.batch_size * (passes * (trunk + self.fc) + 0.5 * 3 * self.fc))

    @property
    def before_freeze(self) -> int:
        """An update, and acting on the center crop."""
        return self._encoder(self.trunk) + self._head + self.trunk + self.fc + self.actor

    @property
    def after_freeze(self) -> int:
        """An update of the heads, acting, and K views and the center in one pass.

        Over a replay of pixels the frozen layers see o, o' and CURL's positive once an update, the others go on.
        """
        if self.latent_replay and self.fc_frozen:
            return self._head + self.actor + (self.augmentations + 1) * (self.trunk + 2 * self.fc)
        learning = self._encoder(self.trunk - self.frozen_trunk) + self._head
        rest = self.trunk - self.frozen_trunk + self.fc + self.actor
        if self.latent_replay:
            return learning + rest + (self.augmentations + 1) * self.frozen_trunk
        views = 3 if self.contrastive else 2
        return learning + rest + (views * self.batch_size + 1) * self.frozen_trunk

    @property
    def conversion_row(self) -> int:
        """K views of a row."""
        if not self.latent_replay:
            return 0
        return self.augmentations * (self.frozen_trunk + (2 * self.fc if self.fc_frozen else 0))
