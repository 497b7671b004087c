"""Rainbow without torch: the sizes of its networks and its entry for the registry."""

from seer_edge.config.algorithms.algorithm import Algorithm, Arrays, EncoderChoice, part_of
from seer_edge.config.algorithms.q_learning import QLearningNetworks
from seer_edge.config.presets import RainbowSettings
from seer_edge.envs import Discrete
from seer_edge.networks.graph import rainbow_graph
from seer_edge.networks.spec import RainbowHeadSpec


class RainbowNetworks(QLearningNetworks[RainbowHeadSpec]):
    """The sizes of Rainbow's encoder (N = 1, cut after the last convolution) and head, each with a target network."""

    @classmethod
    def of(cls, encoder: EncoderChoice, settings: RainbowSettings, actions: int) -> "RainbowNetworks":
        """Build the sizes for one run. Raises ValueError where the encoder does not fit."""
        spec = encoder.spec()
        return cls(spec, RainbowHeadSpec(spec.flat_size, settings.hidden, actions, settings.atoms))

    @property
    def policy_parameters(self) -> int:
        """Number of parameters of the noise-free head, whose dueling streams are one matrix in the graph."""
        head = self.head
        rows = head.actions * head.atoms
        return 2 * head.hidden * (head.latent_size + 1) + rows * (2 * head.hidden + 1)

    @property
    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by which an imported head is recognised."""
        head = self.head
        return {
            "head.hidden.weight": (2 * head.hidden, head.latent_size),
            "head.advantage.weight": (head.actions * head.atoms, head.hidden),
        }

    def policy_graph(self, settings: RainbowSettings, agent: Arrays) -> bytes:
        """Build the ONNX graph of the head without noise. Raises ValueError."""
        return rainbow_graph(self.head, settings.value_range, part_of(agent, "head."))


RAINBOW = Algorithm(
    settings=RainbowSettings,
    actions=Discrete,
    networks=RainbowNetworks.of,
    agent="seer_edge.agents.rainbow:RainbowAgent",
    default_preset="default",
)
