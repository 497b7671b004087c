"""What a network is made of, without torch: the planner, the FLOPs, the ONNX graph and the modules read it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

Shape = tuple[int, int, int]


def _windows(before: Shape, channels: int, kernel: int, stride: int, padding: int) -> Shape:
    """`(channels, height, width)` of what a square window gives that moves over `before`."""
    _, height, width = before
    return (
        channels,
        (height + 2 * padding - kernel) // stride + 1,
        (width + 2 * padding - kernel) // stride + 1,
    )


@dataclass(frozen=True)
class Conv:
    """A square convolution, followed by ReLU unless `relu` is false."""

    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    relu: bool = True

    @property
    def convs(self) -> tuple["Conv", ...]:
        """The convolutions that the layer is made of, bottom first: itself."""
        return (self,)

    def after(self, before: Shape) -> Shape:
        """`(channels, height, width)` after the layer; nothing is left where a side is below 1."""
        return _windows(before, self.filters, self.kernel, self.stride, self.padding)

    def __str__(self) -> str:
        return f"{self.kernel}x{self.kernel} convolution to {self.filters} channels"


@dataclass(frozen=True)
class MaxPool:
    """The maximum of square windows; the padding never wins."""

    kernel: int
    stride: int
    padding: int = 0

    @property
    def convs(self) -> tuple[Conv, ...]:
        """None: the layer has no weights."""
        return ()

    def after(self, before: Shape) -> Shape:
        """`(channels, height, width)` after the layer; nothing is left where a side is below 1."""
        return _windows(before, before[0], self.kernel, self.stride, self.padding)

    def __str__(self) -> str:
        return f"{self.kernel}x{self.kernel} max-pool"


@dataclass(frozen=True)
class Residual:
    """`x + conv(relu(conv(relu(x))))` with two 3x3 convolutions (He et al. 2016, as in Espeholt et al. 2018)."""

    filters: int

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The two convolutions, bottom first: the ReLU between them belongs to the first."""
        return Conv(self.filters, 3, padding=1), Conv(self.filters, 3, padding=1, relu=False)

    def after(self, before: Shape) -> Shape:
        """`before`. Raises ValueError for another number of channels than `filters`."""
        if before[0] != self.filters:
            raise ValueError(f"a residual block of {self.filters} filters cannot take {before[0]} channels")
        return before

    def __str__(self) -> str:
        return f"residual block of {self.filters} filters"


@dataclass(frozen=True)
class ReLU:
    """A ReLU that stands alone."""

    @property
    def convs(self) -> tuple[Conv, ...]:
        """None: the layer has no weights."""
        return ()

    def after(self, before: Shape) -> Shape:
        """`before`."""
        return before

    def __str__(self) -> str:
        return "ReLU"


Layer = Conv | MaxPool | Residual | ReLU


def _impala_section(filters: int) -> tuple[Layer, ...]:
    conv = Conv(filters, 3, padding=1, relu=False)
    return conv, MaxPool(3, stride=2, padding=1), Residual(filters), Residual(filters)


ENCODERS: dict[str, tuple[Layer, ...]] = {
    # van Hasselt et al. 2019; Section 5.1 and Table 3 of the paper.
    "data-efficient": (Conv(32, 5, 5), Conv(64, 5, 5)),
    # Mnih et al. 2015, as in Hessel et al. 2018.
    "canonical": (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1)),
    # Yarats et al. 2019, as in CURL; Table 2 of the paper.
    "sac-ae": (Conv(32, 3, 2), Conv(32, 3), Conv(32, 3), Conv(32, 3)),
    # Espeholt et al. 2018, the deep one: 15 convolutions.
    "impala": (*_impala_section(16), *_impala_section(32), *_impala_section(32), ReLU()),
}


def register_encoder(name: str, layers: Sequence[Layer]) -> None:
    """Add the encoder `name` with the trunk `layers`, bottom first. Raises ValueError for layers of other kinds."""
    strangers = [layer for layer in layers if not isinstance(layer, Layer)]
    if not layers or strangers:
        found = f"not {strangers[0]!r}" if strangers else "at least one"
        raise ValueError(f"encoder {name!r}: give Conv, MaxPool, Residual and ReLU layers, {found}")
    ENCODERS[name] = tuple(layers)


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder: tied convolutional layers, the trunk, then a fully connected layer (fc) for each network.

    Weight layers are counted from the bottom: each convolution is one (a residual block two), the fcs of all
    networks together are one more, the last.

    Raises ValueError for an input that leaves nothing, for several networks without an fc, for a `frozen_layers` that
    is not one of `cuts`, and for a part of an encoder that is `outside`.
    """

    name: str
    layers: tuple[Layer, ...]  # the trunk, bottom first
    input_shape: Shape  # (C, h, w) of a frame stack after cropping
    networks: int = 1  # N, how many networks have latents of their own
    features: int | None = None  # outputs of each fc; None for no fc: the one latent is the flattened last map
    frozen_layers: int | None = None  # weight layers that the freeze freezes (Appendix D); None for all
    outside: bool = False  # frozen from the start and run by ONNX Runtime alone: the learner holds none of its weights

    def __post_init__(self) -> None:
        _, height, width = self.input_shape
        for layer, shape in zip(self.layers, self.shapes[1:], strict=True):
            if min(shape) < 1:
                raise ValueError(
                    f"encoder {self.name!r} cannot take {height}x{width} frames: nothing is left after its {layer}; "
                    "give larger frames or another encoder"
                )
        if self.features is None and self.networks > 1:
            raise ValueError(f"encoder {self.name!r} has no fc to give {self.networks} networks latents of their own")
        if min(self.networks, 1 if self.features is None else self.features) < 1:
            raise ValueError(
                f"encoder {self.name!r} needs 1 network and 1 feature or more, "
                f"not networks={self.networks}, features={self.features}"
            )
        if self.frozen_layers is not None and self.frozen_layers not in self.cuts:
            raise ValueError(
                f"encoder {self.name!r} cannot have its lowest {self.frozen_layers} weight layers frozen; "
                f"choose one of {', '.join(map(str, self.cuts))}"
            )
        if self.outside and not self.whole:
            raise ValueError(f"encoder {self.name!r} is run elsewhere as a whole or not at all")

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """`(channels, height, width)` of the input and after each layer of the trunk."""
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(layer.after(shapes[-1]))
        return tuple(shapes)

    @property
    def flat_size(self) -> int:
        """Elements of the trunk's last map."""
        return math.prod(self.shapes[-1])

    @property
    def map_elements(self) -> int:
        """Elements of all maps of the trunk, which a backward pass needs."""
        return sum(map(math.prod, self.shapes[1:]))

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        """Weight layers below each layer of the trunk and, last, in all of it."""
        return tuple(accumulate((len(layer.convs) for layer in self.layers), initial=0))

    @property
    def weight_layers(self) -> int:
        """The convolutions and, where there are fcs, one more."""
        return self._counts[-1] + (self.features is not None)

    @property
    def cuts(self) -> tuple[int, ...]:
        """The numbers of lowest weight layers that can be frozen, ascending: no cut goes through a residual block."""
        return tuple(sorted({*self._counts, self.weight_layers} - {0}))

    @property
    def _frozen(self) -> int:
        return self.weight_layers if self.frozen_layers is None else self.frozen_layers

    @property
    def whole(self) -> bool:
        """Whether the freeze freezes everything."""
        return self._frozen == self.weight_layers

    @property
    def cut(self) -> int:
        """How many of `layers` are frozen; those without weights go with the weights below them."""
        return max(index for index, count in enumerate(self._counts) if count <= self._frozen)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """`(N, L)` of what the frozen layers give; below the fcs that is one flattened map for all networks."""
        if self.features is not None and self.whole:
            return self.networks, self.features
        return 1, math.prod(self.shapes[self.cut])

    @property
    def latent_networks(self) -> int:
        """N of `latent_shape`."""
        return self.latent_shape[0]

    @property
    def latent_size(self) -> int:
        """L of `latent_shape`."""
        return self.latent_shape[1]

    @cached_property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all weights and biases by their names in the module's state, bottom first."""
        shapes: dict[str, tuple[int, ...]] = {}
        convs = (
            (conv, before[0]) for layer, before in zip(self.layers, self.shapes, strict=False) for conv in layer.convs
        )
        for index, (conv, channels) in enumerate(convs):
            shapes[f"convs.{index}.weight"] = (conv.filters, channels, conv.kernel, conv.kernel)
            shapes[f"convs.{index}.bias"] = (conv.filters,)
        if self.features is not None:
            for network in range(self.networks):
                shapes[f"fcs.{network}.weight"] = (self.features, self.flat_size)
                shapes[f"fcs.{network}.bias"] = (self.features,)
        return shapes

    @property
    def frozen_weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """`weight_shapes` up to the cut."""
        names = list(self.weight_shapes)
        frozen = names if self.whole else names[: 2 * self._frozen]
        return {name: self.weight_shapes[name] for name in frozen}

    def _multiply_adds(self, layers: int) -> int:
        """Of one pass of the lowest `layers` layers of the trunk."""
        return sum(
            before[0] * conv.kernel**2 * math.prod(after)
            for layer, before, after in zip(self.layers[:layers], self.shapes, self.shapes[1:], strict=False)
            for conv in layer.convs
        )

    @property
    def trunk_multiply_adds(self) -> int:
        """Multiply-adds of one pass of the trunk."""
        return self._multiply_adds(len(self.layers))

    @property
    def fc_multiply_adds(self) -> int:
        """Multiply-adds of one pass of one network's fc; 0 without fcs."""
        return self.flat_size * (self.features or 0)

    @property
    def multiply_adds(self) -> int:
        """E: multiply-adds of one pass of the trunk and of all networks' fcs (Appendix C)."""
        return self.trunk_multiply_adds + self.networks * self.fc_multiply_adds

    @property
    def frozen_multiply_adds(self) -> int:
        """Multiply-adds of one pass up to the cut."""
        return self.multiply_adds if self.whole else self._multiply_adds(self.cut)

    @property
    def parameters(self) -> int:
        """Weights and biases of the trunk and of all networks' fcs that the learner holds."""
        return 0 if self.outside else sum(map(math.prod, self.weight_shapes.values()))

    @property
    def frozen_parameters(self) -> int:
        """Weights and biases up to the cut."""
        return sum(map(math.prod, self.frozen_weight_shapes.values()))


@dataclass(frozen=True)
class RainbowHeadSpec:
    """Two noisy streams, value and advantage, over `atoms` atoms (Hessel et al. 2018)."""

    latent_size: int
    hidden: int
    actions: int
    atoms: int

    @property
    def multiply_adds(self) -> int:
        """M: multiply-adds of one forward pass (Appendix C)."""
        return 2 * self.latent_size * self.hidden + self.hidden * self.atoms * (1 + self.actions)

    @property
    def parameters(self) -> int:
        """Means and standard deviations of weights and biases."""
        weights = self.multiply_adds
        biases = 2 * self.hidden + self.atoms * (1 + self.actions)
        return 2 * (weights + biases)


def encoder_spec(
    name: str,
    *,
    input_shape: tuple[int, ...],
    networks: int = 1,
    features: int | None = None,
    frozen_layers: int | None = None,
) -> EncoderSpec:
    """The encoder `name` for frame stacks `input_shape` `(C, h, w)`; the rest as in `EncoderSpec`.

    Raises ValueError for an unknown name, another number of axes, and whatever `EncoderSpec` refuses.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; choose one of {', '.join(ENCODERS)}")
    if len(input_shape) != 3:
        raise ValueError(f"encoder {name!r} takes frame stacks (channels, height, width), not {input_shape}")
    channels, height, width = input_shape
    return EncoderSpec(name, ENCODERS[name], (channels, height, width), networks, features, frozen_layers)
