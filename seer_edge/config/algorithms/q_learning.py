"""What the networks of all Q-learning agents share, without torch (see `agents/q_learning.py`)."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from seer_edge.networks.flops import QLearningFlops
from seer_edge.networks.spec import EncoderSpec


class HeadSpec(Protocol):
    """The sizes of a head."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""

    @property
    def multiply_adds(self) -> int:
        """M, the multiply-adds of one forward pass (Appendix C)."""


Head = TypeVar("Head", bound=HeadSpec)


@dataclass(frozen=True)
class QLearningNetworks(Generic[Head]):
    """The sizes of an encoder (N = 1, cut after the last convolution) and a head, each with a target network."""

    encoder: EncoderSpec
    head: Head

    @property
    def parameters(self) -> int:
        """Number of trained parameters: encoder and head."""
        return self.encoder.parameters + self.head.parameters

    @property
    def optimized_parameters(self) -> int:
        """Number of parameters in the one optimizer."""
        return self.parameters

    @property
    def target_parameters(self) -> int:
        """Number of parameters of the target networks."""
        return self.parameters

    def flops(self, *, batch_size: int, augmentations: int, frame_capacity: int, latent_replay: bool) -> QLearningFlops:
        """Return the cost of a step before and after the freeze (Appendix C)."""
        return QLearningFlops(
            encoder=self.encoder.multiply_adds,
            frozen=self.encoder.frozen_multiply_adds,
            head=self.head.multiply_adds,
            batch_size=batch_size,
            frame_capacity=frame_capacity,
            latent_replay=latent_replay,
        )
