"""The sizes of DQN's head and its ONNX graph. No torch."""

from dataclasses import dataclass

from seer_edge.networks.graph import GraphBuilder, Weights, checked_weight
from seer_runtime.onnx.check import VALUES


@dataclass(frozen=True)
class DqnHeadSpec:
    """One hidden layer with ReLU and one Q-value for each action (Mnih et al. 2015)."""

    latent_size: int
    hidden: int
    actions: int

    @property
    def multiply_adds(self) -> int:
        """M: multiply-adds of one forward pass (Appendix C)."""
        return self.hidden * (self.latent_size + self.actions)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return self.multiply_adds + self.hidden + self.actions

    @property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of weights and biases by their names in the head's state."""
        return {
            "hidden.weight": (self.hidden, self.latent_size),
            "hidden.bias": (self.hidden,),
            "values.weight": (self.actions, self.hidden),
            "values.bias": (self.actions,),
        }


def dqn_graph(spec: DqnHeadSpec, weights: Weights) -> bytes:
    """Build the graph of the head: latents `[B, 1, L]` to Q-values `[B, actions]`.

    `weights` has the arrays of the head's state by name. Equal weights give equal bytes. Raises ValueError for a weight
    that is missing or has another shape or dtype.
    """
    checked = {name: checked_weight("DQN's head", weights, name, shape) for name, shape in spec.weight_shapes.items()}
    builder = GraphBuilder()
    hidden = builder.linear(builder.pick(0), "hidden", checked["hidden.weight"], checked["hidden.bias"])
    hidden = builder.node("Relu", [hidden])
    builder.linear(hidden, "values", checked["values.weight"], checked["values.bias"], output=VALUES)
    return builder.head((1, spec.latent_size), spec.actions)
