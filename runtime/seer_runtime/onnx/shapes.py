"""The operators of our encoders and heads: what each reads, and the shape of what it gives.

Axis 0 of every value is the batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.onnx.wire import GraphError

KERNEL_MAX = 16
FILTERS_STEP = 16
"""ONNX Runtime may lay maps out in blocks of so many channels: one filter would take the room of 16."""
WINDOW = ("kernel_shape", "strides", "pads")
"""The attributes that are several numbers; each other is one."""

Shape = tuple[int, ...]
Attributes = Mapping[str, tuple[int, ...]]
Constants = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Operator:
    """What a node of one kind looks like."""

    shape: Callable[[Sequence[Shape], Constants, Attributes], Shape]
    """Of its output, from the shapes of the values that it reads. Raises GraphError where they do not fit."""
    values: int = 1  # how many values it reads, first; 0 for any number
    constants: tuple[type[np.generic], ...] = ()  # dtypes of the constants that it reads after them
    attributes: tuple[str, ...] = ()  # all of them given


def _need(condition: bool, text: str) -> None:
    if not condition:
        raise GraphError(text)


def _same(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(len(set(values)) == 1 and len(values[0]) == 4, f"needs maps of one shape, not {_shown(values)}")
    return values[0]


def _cast(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["to"] == (1,), "casts to another type than float32")
    return _same(values, constants, attributes)


def _div(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(constants[0].shape == () and constants[0] != 0, "needs one number that is not 0 to divide by")
    return _same(values, constants, attributes)


def _conv(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    (batch, channels, *_), (weight, bias) = _same(values, constants, attributes), constants
    kernel, moved = _window(values[0], attributes)
    _need(weight.shape[1:] == (channels, kernel, kernel), f"weights {list(weight.shape)} do not fit")
    _need(bias.shape == weight.shape[:1], f"biases {list(bias.shape)} do not fit")
    _need(len(bias) % FILTERS_STEP == 0, f"{len(bias)} filters are not a multiple of {FILTERS_STEP}")
    return (batch, len(bias), *moved)


def _quantized_conv(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    """As `_conv`; scales and zero points of input, weights and output stand between."""
    scale, zero, weight, scales, zeros, out_scale, out_zero, bias = constants
    filters = (len(weight),) if weight.ndim else ()
    _need(not (scale.shape or zero.shape or out_scale.shape or out_zero.shape), "maps have one scale and zero point")
    _need(scales.shape == zeros.shape == filters, "each filter needs its scale and zero point")
    _need(min(scale, out_scale, *scales) > 0, "a scale is not positive")
    return _conv(values, (weight, bias), attributes)


def _dequantize(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    scale, zero = constants
    _need(scale.shape == zero.shape == () and bool(scale > 0), "needs one positive scale and one zero point")
    return _same(values, constants, attributes)


def _max_pool(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    batch, channels, *_ = _same(values, constants, attributes)
    return (batch, channels, *_window(values[0], attributes)[1])


def _window(maps: Shape, attributes: Attributes) -> tuple[int, tuple[int, ...]]:
    """The side of a square window and the sides of what it gives that moves over `maps`."""
    sides = {name: set(attributes[name]) for name in WINDOW}
    lengths = [len(attributes[name]) for name in sides]
    _need(lengths == [2, 2, 4] and all(len(side) == 1 for side in sides.values()), "its window is not square")
    (kernel,), (stride,), (pad,) = sides.values()
    _need(
        1 <= kernel <= KERNEL_MAX and 1 <= stride <= KERNEL_MAX and pad < kernel,
        f"a window of kernel {kernel}, stride {stride}, padding {pad} is out of bounds",
    )
    moved = tuple((side + 2 * pad - kernel) // stride + 1 for side in maps[2:])
    _need(min(moved) >= 1, "nothing is left after it")
    return kernel, moved


def _flatten(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "flattens from another axis than 1")
    batch, *rest = _same(values, constants, attributes)
    return batch, math.prod(rest)


def _gemm(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    ((batch, *rest),), (weight, bias) = values, constants
    _need(attributes["transB"] == (1,), "does not read its weights transposed")
    _need(weight.ndim == 2 and [*weight.shape[1:]] == rest, f"weights {list(weight.shape)} do not fit {_shown(values)}")
    _need(bias.shape == weight.shape[:1], f"biases {list(bias.shape)} do not fit")
    return batch, len(bias)


def _concat(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "joins along another axis than 1")
    _need(all(len(value) == 2 for value in values), f"joins {_shown(values)}")
    return values[0][0], sum(width for _, width in values)


def _reshape(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    batch, *rest = values[0]
    _need(constants[0].shape == (3,), "does not give [B, N, L]")
    kept, *wanted = (int(side) for side in constants[0])
    _need(kept == 0 and min(wanted) >= 1 and math.prod(wanted) == math.prod(rest), f"{wanted} do not hold {rest}")
    return (batch, *wanted)


def _gather(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "picks along another axis than 1")
    batch, networks, size = values[0]
    _need(constants[0].shape == () and 0 <= int(constants[0]) < networks, f"picks none of {networks} networks")
    return batch, size


def _flat(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(len(values[0]) == 2, f"needs [B, L], not {_shown(values)}")
    return values[0]


def _layer_norm(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "normalises another axis than 1")
    batch, size = _flat(values, constants, attributes)
    _need(all(constant.shape == (size,) for constant in constants), f"its weights do not fit {_shown(values)}")
    return batch, size


def _softmax(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (2,) and len(values[0]) == 3, f"needs [B, actions, atoms], not {_shown(values)}")
    return values[0]


def _expectation(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    *kept, atoms = values[0]
    _need(len(kept) == 2 and constants[0].shape == (atoms,), f"weights {list(constants[0].shape)} do not fit")
    return tuple(kept)


def _shown(shapes: Sequence[Shape]) -> str:
    return " and ".join(str(list(shape)) for shape in shapes)


_WEIGHTS = (np.float32, np.float32)

ENCODER_OPERATORS: dict[str, Operator] = {
    "Cast": Operator(_cast, attributes=("to",)),
    "Div": Operator(_div, constants=(np.float32,)),
    "Conv": Operator(_conv, constants=_WEIGHTS, attributes=WINDOW),
    "Relu": Operator(_same),
    "MaxPool": Operator(_max_pool, attributes=WINDOW),
    "Add": Operator(_same, values=2),
    "Flatten": Operator(_flatten, attributes=("axis",)),
    "Gemm": Operator(_gemm, constants=_WEIGHTS, attributes=("transB",)),
    "Concat": Operator(_concat, values=0, attributes=("axis",)),
    "Reshape": Operator(_reshape, constants=(np.int64,)),
}

_SCALED = (np.float32, np.uint8)

INT8_OPERATORS: dict[str, Operator] = {
    "QLinearConv": Operator(
        _quantized_conv,
        constants=(*_SCALED, np.int8, np.float32, np.int8, *_SCALED, np.int32),
        attributes=WINDOW,
    ),
    "DequantizeLinear": Operator(_dequantize, constants=_SCALED),
    **{name: ENCODER_OPERATORS[name] for name in ("Flatten", "Gemm", "Concat", "Reshape")},
}
"""Of an encoder of convolutions with ReLU: in unsigned numbers with a zero point of 0 that costs nothing."""

HEAD_OPERATORS: dict[str, Operator] = {
    "Gather": Operator(_gather, constants=(np.int64,), attributes=("axis",)),
    "LayerNormalization": Operator(_layer_norm, constants=_WEIGHTS, attributes=("axis",)),
    "Gemm": Operator(_gemm, constants=_WEIGHTS, attributes=("transB",)),
    "Relu": Operator(_flat),
    "Tanh": Operator(_flat),
    "Reshape": Operator(_reshape, constants=(np.int64,)),
    "Softmax": Operator(_softmax, attributes=("axis",)),
    "MatMul": Operator(_expectation, constants=(np.float32,)),
}
