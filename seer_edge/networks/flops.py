"""Count floating-point operations as the paper does (Appendix C).

The unit is the multiply-add. A backward pass costs two forward passes. Each agent step counts as one iteration with
an update, warm-up included, as on the paper's axes. Elementwise operations, normalisation and the logits of the
contrastive loss (less than 0.1 %) are not counted.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass


class FlopsModel(ABC):
    """Multiply-adds of one iteration before the freeze, one after it, and of the conversion at the freeze."""

    frame_capacity: int  # C, frames that the replay holds

    @property
    @abstractmethod
    def before_freeze(self) -> int:
        """Multiply-adds of one iteration before the freeze."""

    @property
    @abstractmethod
    def after_freeze(self) -> int:
        """Multiply-adds of one iteration after the freeze."""

    @property
    @abstractmethod
    def conversion_row(self) -> int:
        """Multiply-adds to encode one replay row at the freeze."""

    def conversion(self, freeze_at: int) -> int:
        """Return the multiply-adds to encode min(T_f, C) rows at the freeze, T_f = `freeze_at`, as in the paper.

        The real conversion drops a few of these rows instead of encoding them.
        """
        return self.conversion_row * min(freeze_at, self.frame_capacity)

    def total(self, timestep: int, freeze_at: int | None) -> int:
        """Return the multiply-adds of all iterations up to `timestep`, including a conversion at `freeze_at`."""
        if freeze_at is None or timestep < freeze_at:
            return timestep * self.before_freeze
        latent_steps = timestep - freeze_at
        return freeze_at * self.before_freeze + self.conversion(freeze_at) + latent_steps * self.after_freeze


@dataclass(frozen=True)
class QLearningFlops(FlopsModel):
    """Cost of Rainbow, with F = 3 and B = 1.

    An update runs the online network on s and s', the target network on s', and a backward pass through s.
    """

    encoder: int  # E, multiply-adds of one pass of the encoder
    frozen: int  # the frozen layers' part of E; all of it unless --freeze-layers names fewer
    head: int  # M, multiply-adds of one pass of all layers behind the encoder
    batch_size: int  # b
    frame_capacity: int
    latent_replay: bool = True  # whether the replay holds latents after the freeze

    forwards = 3
    backwards = 1

    @property
    def before_freeze(self) -> int:
        """Multiply-adds of one iteration before the freeze: bF(E + M) + 2bB(E + M) + (E + M)."""
        both = self.encoder + self.head
        return self.batch_size * (self.forwards + 2 * self.backwards) * both + both

    @property
    def after_freeze(self) -> int:
        """Multiply-adds of one iteration after the freeze: bFM + 2bBM + (E + M) + EKN, with K = N = 1.

        The formula is for a fully frozen encoder. Layers of E that still train are counted like M. With a pixel replay
        the frozen layers run on s and s' in every update, and no latents are stored.
        """
        trained = self.encoder - self.frozen + self.head
        learning = self.batch_size * (self.forwards + 2 * self.backwards) * trained
        frozen = self.frozen if self.latent_replay else 2 * self.batch_size * self.frozen
        return learning + self.encoder + self.head + frozen

    @property
    def conversion_row(self) -> int:
        """Multiply-adds to encode one replay row at the freeze: EKN with K = N = 1."""
        return self.frozen if self.latent_replay else 0


@dataclass(frozen=True)
class ActorCriticFlops(FlopsModel):
    """Cost of CURL + SAC, counted from its update, because the paper gives no F and B for it.

    Passes in one update, where every second update steps the actor too:

    | | trunk | fc | actor | Q |
    |---|---|---|---|---|
    | critic on o, forward and backward | 1 + B | 1 + B | | 2 + 2B |
    | actor and target critic on o' | 2 | 2 | 1 | 2 |
    | actor step on o, backward through Q to its actions only | | 1/2 (1 + B) | 1/2 (1 + B) | 1/2 (2 + B) |
    | CURL's query, forward and backward, and key | 2 + B | 2 + B | | |

    with B = 2. The actor's step reuses the query's pass through the trunk and the critic's fc. Without CURL it makes
    that pass itself. Actor and critic share the convolutions, so one pass of the trunk serves both, where the paper's
    EKN would count it N times.
    """

    trunk: int  # multiply-adds of one pass of the shared convolutions
    frozen_trunk: int  # the frozen layers' part of `trunk`
    fc: int  # multiply-adds of one network's fully connected layer
    fc_frozen: bool
    actor: int  # multiply-adds of one pass of the actor
    q: int  # multiply-adds of one pass of one of the two Q functions
    batch_size: int
    augmentations: int  # K, crops of each observation that are encoded
    contrastive: bool
    frame_capacity: int
    latent_replay: bool = True

    @property
    def _head(self) -> int:
        """Multiply-adds of actor and Q functions in one update."""
        actor = 1 + 0.5 * 3
        q = (2 + 4) + 2 + 0.5 * (2 + 2)
        return round(self.batch_size * (actor * self.actor + q * self.q))

    def _encoder(self, trunk: int) -> int:
        """Return the multiply-adds, forward and backward, of `trunk` and the fcs in one update."""
        passes = 3 + 2 + (4 if self.contrastive else 0.5)
        return round(self.batch_size * (passes * (trunk + self.fc) + 0.5 * 3 * self.fc))

    @property
    def before_freeze(self) -> int:
        """Multiply-adds of one iteration before the freeze: an update, and acting on the center crop."""
        return self._encoder(self.trunk) + self._head + self.trunk + self.fc + self.actor

    @property
    def after_freeze(self) -> int:
        """Multiply-adds of one iteration after the freeze.

        It updates the heads, acts, and encodes K crops and the center crop. With a pixel replay the frozen layers run
        once an update on o, o' and CURL's positive, and the other layers still train.
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
        """Multiply-adds to encode K crops of one replay row at the freeze."""
        if not self.latent_replay:
            return 0
        return self.augmentations * (self.frozen_trunk + (2 * self.fc if self.fc_frozen else 0))
