"""DQN without torch: the sizes of its networks and its entry for the registry."""

from dataclasses import dataclass

from seer_edge.config.algorithms.algorithm import Algorithm, Arrays, EncoderChoice, part_of
from seer_edge.config.presets.dqn import DqnSettings
from seer_edge.envs import Discrete
from seer_edge.networks.dqn import DqnHeadSpec, dqn_graph
from seer_edge.networks.flops import QLearningFlops
from seer_edge.networks.spec import EncoderSpec


@dataclass(frozen=True)
class DqnNetworks:
    """The sizes of DQN's encoder (N = 1, cut after the last convolution) and head, each with a target network."""

    encoder: EncoderSpec
    head: DqnHeadSpec

    @classmethod
    def of(cls, encoder: EncoderChoice, settings: DqnSettings, actions: int) -> "DqnNetworks":
        """Build the sizes for one run. Raises ValueError where the encoder does not fit."""
        spec = encoder.spec()
        return cls(spec, DqnHeadSpec(spec.flat_size, settings.hidden, actions))

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

    @property
    def policy_parameters(self) -> int:
        """Number of parameters in the graph of the head."""
        return self.head.parameters

    @property
    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by which an imported head is recognised."""
        return {f"head.{name}": shape for name, shape in self.head.weight_shapes.items()}

    def policy_graph(self, settings: DqnSettings, agent: Arrays) -> bytes:
        """Build the ONNX graph of the head. Raises ValueError."""
        return dqn_graph(self.head, part_of(agent, "head."))

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


DQN = Algorithm(
    settings=DqnSettings,
    actions=Discrete,
    networks=DqnNetworks.of,
    agent="seer_edge.agents.dqn:DqnAgent",
    default_preset="default",
)
