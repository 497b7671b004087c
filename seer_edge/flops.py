"""Floating-point operations as the paper counts them (Appendix C): multiply-adds, a backward pass twice a forward one.

Every step counts as one iteration with an update, warm-up included, as on the paper's axes.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class FlopsModel:
    """The terms of Appendix C for one agent."""

    encoder: int  # E, multiply-adds of one encoder pass
    head: int  # M, of all layers behind it
    batch_size: int  # b
    forwards: int  # F, forward passes an update
    backwards: int  # B, backward passes an update
    frame_capacity: int  # C
    augmentations: int = 1  # K
    encoders: int = 1  # N

    @property
    def before_freeze(self) -> int:
        """Of one iteration: bF(E + M) + 2bB(E + M) + (E + M)."""
        both = self.encoder + self.head
        return self.batch_size * (self.forwards + 2 * self.backwards) * both + both

    @property
    def after_freeze(self) -> int:
        """Of one iteration: bFM + 2bBM + (E + M) + EKN."""
        learning = self.batch_size * (self.forwards + 2 * self.backwards) * self.head
        return learning + self.encoder + self.head + self.encoder * self.augmentations * self.encoders

    def conversion(self, freeze_at: int) -> int:
        """One-time cost of the freeze: EKN min(T_f, C), as the paper has it; a few rows are dropped, not encoded."""
        return self.encoder * self.augmentations * self.encoders * min(freeze_at, self.frame_capacity)

    def total(self, timestep: int, freeze_at: int | None) -> int:
        """Of all iterations up to `timestep`, with the conversion once `timestep` has reached `freeze_at`."""
        if freeze_at is None or timestep < freeze_at:
            return timestep * self.before_freeze
        latent_steps = timestep - freeze_at
        return freeze_at * self.before_freeze + self.conversion(freeze_at) + latent_steps * self.after_freeze


# Rainbow: online network on s and s', target network on s'; backward through s.
RAINBOW_FORWARDS, RAINBOW_BACKWARDS = 3, 1
