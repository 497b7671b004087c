"""What the rest of the program needs to know of an agent before torch is imported."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from numpy.typing import NDArray

from seer_edge.config.presets import Settings
from seer_edge.envs import Continuous, Discrete
from seer_edge.networks.flops import FlopsModel
from seer_edge.networks.spec import EncoderSpec, Shape, encoder_spec

Arrays = Mapping[str, NDArray[Any]]
"""Arrays of an agent's state, by name."""


class Networks(Protocol):
    """The sizes and costs of one agent's networks in one run."""

    @property
    def encoder(self) -> EncoderSpec:
        """The encoder and where the freeze cuts it."""

    @property
    def head(self) -> Any:
        """The sizes of the heads, as the agent's class takes them."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""

    @property
    def optimized_parameters(self) -> int:
        """Number of parameters in all optimizers. One that two optimizers hold counts twice."""

    @property
    def target_parameters(self) -> int:
        """Number of parameters of the target networks."""

    @property
    def policy_parameters(self) -> int:
        """Number of parameters in `policy_graph`. `export` stores each as float32."""

    @property
    def head_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of some head weights in the agent's state, by name.

        An imported head fits where all of them are equal.
        """

    def policy_graph(self, settings: Any, agent: Arrays) -> bytes:
        """Build the ONNX graph of the acting head from the arrays of an agent's state.

        The graph maps latents `[B, N, L]` to one value for each action, or to controls. Raises ValueError.
        """

    def flops(self, *, batch_size: int, augmentations: int, frame_capacity: int, latent_replay: bool) -> FlopsModel:
        """Return the cost of a step before and after the freeze (Appendix C)."""


@dataclass(frozen=True)
class EncoderChoice:
    """The encoder that a run asks for, before the agent adds what its heads need.

    Attributes:
        name: a name in `ENCODERS`.
        input_shape: `(C, h, w)` of a frame stack after cropping, the oldest frame's channels first.
        frozen_layers: the number of weight layers that the freeze freezes; None for all.
        imported: whether the weights come from another run or a bundle.

    """

    name: str
    input_shape: Shape
    frozen_layers: int | None = None
    imported: bool = False

    def spec(self, *, networks: int = 1, features: int | None = None) -> EncoderSpec:
        """Return the encoder with latents for `networks` networks, of `features` elements each.

        Without `features` there is no fully connected layer. An imported encoder that is frozen whole is `outside`:
        ONNX Runtime runs it and torch does not hold its weights. Raises ValueError where the encoder does not fit.
        """
        spec = encoder_spec(
            self.name,
            input_shape=self.input_shape,
            networks=networks,
            features=features,
            frozen_layers=self.frozen_layers,
        )
        return replace(spec, outside=self.imported and spec.whole)


@dataclass(frozen=True)
class Algorithm:
    """One kind of agent.

    Attributes:
        settings: the class of its hyperparameters.
        actions: the kind of actions that it takes.
        networks: builds the sizes of its networks from the encoder, the settings and the number of actions (for
            continuous actions, of controls). Raises ValueError where the encoder does not fit.
        agent: "module:class" of the agent, imported when one is built. The class is called with the encoder's spec,
            the head's sizes and the settings, then `seed=` and `device=`.
        default_preset: the name of its preset for tasks that have none.
        encoder_arrays: prefixes of the arrays in its state that belong to its encoder. Another run can import them.
        fixed: settings that define this algorithm, with their values.
        map_factor: how many times an update holds each element of the encoder's maps at its peak, beside its inputs;
            the plan estimates memory with it. Q-learning, which encodes both observations of a row, has 4.5.

    """

    settings: type[Settings]
    actions: type[Discrete] | type[Continuous]
    networks: Callable[[EncoderChoice, Any, int], Networks]
    agent: str
    default_preset: str
    encoder_arrays: tuple[str, ...] = ("encoder.",)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    map_factor: float = 4.5


def part_of(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    """Return the arrays whose names begin with `prefix`, without the prefix."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
