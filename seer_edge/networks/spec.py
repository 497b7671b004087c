"""Layers and sizes of the networks. Imports no torch, so that the planner and `plan` can use it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from seer_runtime.onnx.limits import FILTERS_STEP, KERNEL_MAX
from seer_runtime.system.registry import add_entry

Shape = tuple[int, int, int]


def _windows(before: Shape, channels: int, kernel: int, stride: int, padding: int) -> Shape:
    """Return the output shape `(channels, height, width)` of a square window that slides over `before`."""
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
        """The layer's convolutions, bottom first: itself."""
        return (self,)

    def after(self, before: Shape) -> Shape:
        """Return the shape `(channels, height, width)` after the layer. A side below 1 means the input is too small."""
        return _windows(before, self.filters, self.kernel, self.stride, self.padding)

    def __str__(self) -> str:
        return f"{self.kernel}x{self.kernel} convolution to {self.filters} channels"


@dataclass(frozen=True)
class MaxPool:
    """Maximum over square windows. Padding is never the maximum."""

    kernel: int
    stride: int
    padding: int = 0

    @property
    def convs(self) -> tuple[Conv, ...]:
        """None: the layer has no weights."""
        return ()

    def after(self, before: Shape) -> Shape:
        """Return the shape `(channels, height, width)` after the layer. A side below 1 means the input is too small."""
        return _windows(before, before[0], self.kernel, self.stride, self.padding)

    def __str__(self) -> str:
        return f"{self.kernel}x{self.kernel} max-pool"


@dataclass(frozen=True)
class Residual:
    """`x + conv(relu(conv(relu(x))))` with two 3x3 convolutions (He et al. 2016, as in Espeholt et al. 2018)."""

    filters: int

    @property
    def convs(self) -> tuple[Conv, ...]:
        """The two convolutions, bottom first. The ReLU between them belongs to the first."""
        return Conv(self.filters, 3, padding=1), Conv(self.filters, 3, padding=1, relu=False)

    def after(self, before: Shape) -> Shape:
        """Return `before`, unchanged. Raises ValueError where it does not have `filters` channels."""
        if before[0] != self.filters:
            raise ValueError(f"a residual block of {self.filters} filters needs as many channels, not {before[0]}")
        return before

    def __str__(self) -> str:
        return f"residual block of {self.filters} filters"


@dataclass(frozen=True)
class ReLU:
    """A ReLU that does not follow a convolution directly."""

    @property
    def convs(self) -> tuple[Conv, ...]:
        """None: the layer has no weights."""
        return ()

    def after(self, before: Shape) -> Shape:
        """Return `before`, unchanged."""
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
    # Espeholt et al. 2018, the deep network with 15 convolutions.
    "impala": (*_impala_section(16), *_impala_section(32), *_impala_section(32), ReLU()),
}


def register_encoder(name: str, layers: Sequence[Layer]) -> None:
    """Add the encoder `name` with the trunk `layers`, bottom first.

    Raises ValueError for a name in use, for layers without a convolution or of other kinds, and for a layer that
    the frozen encoder could not have: the number of filters must be a multiple of 16, a window at most 16 wide.
    """
    others = [layer for layer in layers if not isinstance(layer, Layer)]
    if others or not any(layer.convs for layer in layers):
        found = f"not {others[0]!r}" if others else "with at least one convolution"
        raise ValueError(f"encoder {name!r}: give Conv, MaxPool, Residual and ReLU layers, {found}")
    for number, layer in enumerate(layers, 1):
        try:
            _check_layer(layer)
        except ValueError as error:
            raise ValueError(f"encoder {name!r}, layer {number}, {type(layer).__name__}: {error}") from None
    add_entry(ENCODERS, "encoder", name, tuple(layers))


def _check_layer(layer: Layer) -> None:
    """Raise ValueError unless the frozen encoder may have this layer (`seer_runtime.onnx.check`)."""
    fields = {name: value for name, value in vars(layer).items() if name != "relu"}
    for name, value in fields.items():
        if type(value) is not int:
            raise ValueError(f"{name} is {value!r}; give a whole number")
    for name in ("kernel", "stride"):
        if name in fields and not 1 <= fields[name] <= KERNEL_MAX:
            raise ValueError(f"{name} is {fields[name]}; use 1 to {KERNEL_MAX}")
    if "padding" in fields and not 0 <= fields["padding"] < fields["kernel"]:
        raise ValueError(f"padding is {fields['padding']}; use 0 to {fields['kernel'] - 1}, less than the kernel")
    if "filters" in fields and (fields["filters"] < 1 or fields["filters"] % FILTERS_STEP):
        raise ValueError(f"filters is {fields['filters']}; use a multiple of {FILTERS_STEP}")


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder: a trunk of convolutional layers that all networks share, then a fully connected layer (fc) for each.

    Weight layers are counted from the bottom. Each convolution is one, so a residual block has two. The fcs of all
    networks together are the last one.

    Raises ValueError for an input that is too small, for several networks without an fc, for a `frozen_layers` that is
    not one of `cuts`, and for an `outside` encoder that is not wholly frozen.
    """

    name: str
    layers: tuple[Layer, ...]  # the trunk, bottom first
    input_shape: Shape  # (C, h, w) of a frame stack after cropping
    networks: int = 1  # N, the number of networks with separate latents
    features: int | None = None  # outputs of each fc; None for no fc, so that the trunk's last maps are the latent
    frozen_layers: int | None = None  # number of lowest weight layers to freeze (Appendix D); None for all
    outside: bool = False  # frozen from the start and run by ONNX Runtime only; the learner holds no weights of it

    def __post_init__(self) -> None:
        _, height, width = self.input_shape
        for layer, shape in zip(self.layers, self.shapes[1:], strict=True):
            if min(shape) < 1:
                raise ValueError(
                    f"encoder {self.name!r}: frames of {height}x{width} are too small for its {layer}; "
                    "use a larger --resolution or another encoder"
                )
        if self.features is None and self.networks > 1:
            raise ValueError(
                f"encoder {self.name!r} has no fc, so {self.networks} networks cannot have separate latents"
            )
        if min(self.networks, 1 if self.features is None else self.features) < 1:
            raise ValueError(
                f"encoder {self.name!r} needs at least 1 network and 1 feature, "
                f"not networks={self.networks}, features={self.features}"
            )
        if self.frozen_layers is not None and self.frozen_layers not in self.cuts:
            raise ValueError(
                f"encoder {self.name!r} cannot freeze its lowest {self.frozen_layers} weight layers; "
                f"choose one of {', '.join(map(str, self.cuts))}"
            )
        if self.outside and not self.whole:
            raise ValueError(f"encoder {self.name!r} runs outside the learner, so all its layers must be frozen")

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """`(channels, height, width)` of the input and after each layer of the trunk."""
        shapes = [self.input_shape]
        for layer in self.layers:
            shapes.append(layer.after(shapes[-1]))
        return tuple(shapes)

    @property
    def flat_size(self) -> int:
        """Number of elements of the trunk's last maps."""
        return math.prod(self.shapes[-1])

    @property
    def map_elements(self) -> int:
        """Number of elements of all maps of the trunk, which a backward pass keeps in memory."""
        return sum(map(math.prod, self.shapes[1:]))

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        """Number of weight layers below each layer of the trunk and, last, in the whole trunk."""
        return tuple(accumulate((len(layer.convs) for layer in self.layers), initial=0))

    @property
    def weight_layers(self) -> int:
        """Number of weight layers: the convolutions, plus one where there are fcs."""
        return self._counts[-1] + (self.features is not None)

    @property
    def cuts(self) -> tuple[int, ...]:
        """The values that `frozen_layers` may have, ascending. No cut goes through a residual block."""
        return tuple(sorted({*self._counts, self.weight_layers} - {0}))

    @property
    def _frozen(self) -> int:
        return self.weight_layers if self.frozen_layers is None else self.frozen_layers

    @property
    def whole(self) -> bool:
        """Whether the freeze covers all weight layers."""
        return self._frozen == self.weight_layers

    @property
    def cut(self) -> int:
        """Number of `layers` that are frozen. Layers without weights belong to the weights below them."""
        return max(index for index, count in enumerate(self._counts) if count <= self._frozen)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """Shape `(N, L)` of the frozen layers' output. Below the fcs N is 1, because all networks share the maps."""
        if self.features is not None and self.whole:
            return self.networks, self.features
        return 1, math.prod(self.shapes[self.cut])

    @property
    def latent_size(self) -> int:
        """L, the second element of `latent_shape`."""
        return self.latent_shape[1]

    @cached_property
    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all weights and biases, bottom first, by their names in the module's state."""
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
        """The part of `weight_shapes` that is frozen."""
        names = list(self.weight_shapes)
        frozen = names if self.whole else names[: 2 * self._frozen]
        return {name: self.weight_shapes[name] for name in frozen}

    def _multiply_adds(self, layers: int) -> int:
        """Return the multiply-adds of one pass of the trunk's lowest `layers` layers."""
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
        """Multiply-adds of one pass of one network's fc, 0 without fcs."""
        return self.flat_size * (self.features or 0)

    @property
    def multiply_adds(self) -> int:
        """E, the multiply-adds of one pass of the trunk and of all networks' fcs (Appendix C)."""
        return self.trunk_multiply_adds + self.networks * self.fc_multiply_adds

    @property
    def frozen_multiply_adds(self) -> int:
        """Multiply-adds of one pass of the frozen layers."""
        return self.multiply_adds if self.whole else self._multiply_adds(self.cut)

    @property
    def parameters(self) -> int:
        """Number of weights and biases of the trunk and all fcs that the learner holds: 0 where `outside`."""
        return 0 if self.outside else sum(map(math.prod, self.weight_shapes.values()))

    @property
    def frozen_parameters(self) -> int:
        """Number of weights and biases of the frozen layers."""
        return sum(map(math.prod, self.frozen_weight_shapes.values()))


@dataclass(frozen=True)
class RainbowHeadSpec:
    """Sizes of Rainbow's head: two noisy streams, value and advantage, over `atoms` atoms (Hessel et al. 2018)."""

    latent_size: int
    hidden: int
    actions: int
    atoms: int

    @property
    def multiply_adds(self) -> int:
        """M, the multiply-adds of one forward pass (Appendix C)."""
        return 2 * self.latent_size * self.hidden + self.hidden * self.atoms * (1 + self.actions)

    @property
    def parameters(self) -> int:
        """Number of parameters: means and standard deviations of weights and biases."""
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
    """Build the spec of the encoder `name` for frame stacks of shape `input_shape` `(C, h, w)`.

    The other arguments are fields of `EncoderSpec`. Raises ValueError for an unknown name, for another number of axes,
    and as `EncoderSpec` does.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; choose one of {', '.join(ENCODERS)}")
    if len(input_shape) != 3:
        raise ValueError(f"encoder {name!r} needs frame stacks (channels, height, width), not {input_shape}")
    channels, height, width = input_shape
    return EncoderSpec(name, ENCODERS[name], (channels, height, width), networks, features, frozen_layers)
