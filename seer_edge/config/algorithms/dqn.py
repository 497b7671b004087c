"""DQN without torch: the sizes of its networks and its entry for the registry."""

from seer_edge.config.algorithms.algorithm import Algorithm, Arrays, EncoderChoice, part_of
from seer_edge.config.algorithms.q_learning import QLearningNetworks
from seer_edge.config.presets.dqn import DqnSettings
from seer_edge.envs import Discrete
from seer_edge.networks.dqn import DqnHeadSpec, dqn_graph


class DqnNetworks(QLearningNetworks[DqnHeadSpec]):
    """The sizes of DQN's encoder (N = 1, cut after the last convolution) and head, each with a target network."""

    @classmethod
    def of(cls, encoder: EncoderChoice, settings: DqnSettings, actions: int) -> "DqnNetworks":
        """Build the sizes for one run. Raises ValueError where the encoder does not fit."""
        spec = encoder.spec()
        return cls(spec, DqnHeadSpec(spec.flat_size, settings.hidden, actions))

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


DQN = Algorithm(
    settings=DqnSettings,
    actions=Discrete,
    networks=DqnNetworks.of,
    agent="seer_edge.agents.dqn:DqnAgent",
    default_preset="default",
)
