"""What a network is made of, without torch: the planner, the FLOPs, the ONNX graph and the modules read it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Conv:
    """A square convolution followed by ReLU."""

    filters: int
    kernel: int
    stride: int


ENCODERS: dict[str, tuple[Conv, ...]] = {
    # van Hasselt et al. 2019; Section 5.1 and Table 3 of the paper.
    "data-efficient": (Conv(32, 5, 5), Conv(64, 5, 5)),
    # Mnih et al. 2015, as in Hessel et al. 2018.
    "canonical": (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1)),
}


@dataclass(frozen=True)
class EncoderSpec:
    """A convolutional encoder of `stack` frames `[height, width]`, cut after the last convolution's ReLU."""

    name: str
    convs: tuple[Conv, ...]
    stack: int
    frame_shape: tuple[int, int]

    def __post_init__(self) -> None:
        for conv, (channels, height, width) in zip(self.convs, list(self._shapes())[1:], strict=True):
            if min(height, width) < 1:
                raise ValueError(
                    f"encoder {self.name!r} cannot take {self.frame_shape[0]}x{self.frame_shape[1]} frames: "
                    f"nothing is left after its {conv.kernel}x{conv.kernel} convolution to {channels} channels"
                )

    def _shapes(self) -> Iterator[tuple[int, int, int]]:
        channels, (height, width) = self.stack, self.frame_shape
        yield channels, height, width
        for conv in self.convs:
            channels = conv.filters
            height, width = ((side - conv.kernel) // conv.stride + 1 for side in (height, width))
            yield channels, height, width

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """`(channels, height, width)` of the input and after each convolution."""
        return tuple(self._shapes())

    @property
    def latent_size(self) -> int:
        """L, the elements of one latent."""
        return math.prod(self.shapes[-1])

    @property
    def multiply_adds(self) -> int:
        """E: multiply-adds of one forward pass (Appendix C)."""
        shapes = self.shapes
        return sum(
            before[0] * conv.kernel**2 * math.prod(after)
            for conv, before, after in zip(self.convs, shapes, shapes[1:], strict=False)
        )

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        channels = [shape[0] for shape in self.shapes]
        return sum(
            (before * conv.kernel**2 + 1) * conv.filters for conv, before in zip(self.convs, channels, strict=False)
        )


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


def encoder_spec(name: str, *, stack: int, frame_shape: tuple[int, ...]) -> EncoderSpec:
    """The encoder `name` for a stack of gray frames `[height, width]`. Raises ValueError where it does not fit."""
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; choose one of {', '.join(ENCODERS)}")
    if len(frame_shape) != 2:
        raise ValueError(f"encoder {name!r} takes gray frames, not frames of shape {frame_shape}")
    return EncoderSpec(name, ENCODERS[name], stack, (frame_shape[0], frame_shape[1]))
