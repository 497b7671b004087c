"""The ONNX operators that encoders and heads may use: the inputs of each, and a function for its output shape.

Each shape function takes the shapes of the computed inputs, the constants and the attributes. It raises GraphError if
they do not fit. Axis 0 of every value is the batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.onnx.limits import FILTERS_STEP, KERNEL_MAX
from seer_runtime.onnx.wire import GraphError

WINDOW = ("kernel_shape", "strides", "pads")
"""The attributes that are lists of integers. Every other attribute is one integer."""

Shape = tuple[int, ...]
Attributes = Mapping[str, tuple[int, ...]]
Constants = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Operator:
    """The rules for the nodes of one operator."""

    shape: Callable[[Sequence[Shape], Constants, Attributes], Shape]
    """Returns the shape of the output. Raises GraphError if inputs and attributes do not fit."""
    values: int = 1  # number of computed inputs, which come first; 0 for any number
    constants: tuple[type[np.generic], ...] = ()  # dtypes of the constant inputs, which follow
    attributes: tuple[str, ...] = ()  # names of the attributes, all required


def _need(condition: bool, text: str) -> None:
    if not condition:
        raise GraphError(text)


def _same(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(len(set(values)) == 1 and len(values[0]) == 4, f"needs feature maps of equal shape, not {_shown(values)}")
    return values[0]


def _cast(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["to"] == (1,), "must cast to float32")
    return _same(values, constants, attributes)


def _div(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(constants[0].shape == () and constants[0] != 0, "the divisor must be one nonzero number")
    return _same(values, constants, attributes)


def _conv(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    (batch, channels, *_), (weight, bias) = _same(values, constants, attributes), constants
    kernel, output = _window(values[0], attributes)
    _need(weight.shape[1:] == (channels, kernel, kernel), f"weights {list(weight.shape)} do not fit")
    _need(bias.shape == weight.shape[:1], f"biases {list(bias.shape)} do not fit")
    _need(len(bias) % FILTERS_STEP == 0, f"{len(bias)} filters are not a multiple of {FILTERS_STEP}")
    return (batch, len(bias), *output)


def _quantized_conv(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    """Check the scales and zero points of input, weights and output, then the shapes as in `_conv`."""
    scale, zero, weight, scales, zeros, out_scale, out_zero, bias = constants
    one_each = not (scale.shape or zero.shape or out_scale.shape or out_zero.shape)
    _need(one_each, "input and output must each have one scale and one zero point")
    for_each_filter = weight.ndim == 4 and scales.shape == zeros.shape == weight.shape[:1]
    _need(for_each_filter, "needs one scale and one zero point for each filter")
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
    """Return the side of the square kernel, and the height and width of the output over feature maps `maps`."""
    sides = {name: set(attributes[name]) for name in WINDOW}
    lengths = [len(attributes[name]) for name in sides]
    _need(lengths == [2, 2, 4] and all(len(side) == 1 for side in sides.values()), "the window must be square")
    (kernel,), (stride,), (pad,) = sides.values()
    _need(
        1 <= kernel <= KERNEL_MAX and 1 <= stride <= KERNEL_MAX and pad < kernel,
        f"a window of kernel {kernel}, stride {stride}, padding {pad} is out of range",
    )
    output = tuple((side + 2 * pad - kernel) // stride + 1 for side in maps[2:])
    _need(min(output) >= 1, "the output is empty")
    return kernel, output


def _flatten(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "must flatten from axis 1")
    batch, *rest = _same(values, constants, attributes)
    return batch, math.prod(rest)


def _gemm(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    ((batch, *rest),), (weight, bias) = values, constants
    _need(attributes["transB"] == (1,), "transB must be 1")
    _need(weight.ndim == 2 and [*weight.shape[1:]] == rest, f"weights {list(weight.shape)} do not fit {_shown(values)}")
    _need(bias.shape == weight.shape[:1], f"biases {list(bias.shape)} do not fit")
    return batch, len(bias)


def _concat(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "must concatenate along axis 1")
    _need(all(len(value) == 2 for value in values), f"needs inputs [B, L], not {_shown(values)}")
    return values[0][0], sum(width for _, width in values)


def _reshape(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    batch, *rest = values[0]
    _need(constants[0].shape == (3,), "must reshape to [B, N, L]")
    kept, *wanted = (int(side) for side in constants[0])
    fits = kept == 0 and min(wanted) >= 1 and math.prod(wanted) == math.prod(rest)
    _need(fits, f"cannot reshape rows of {rest} to {[kept, *wanted]}")
    return (batch, *wanted)


def _gather(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "must select along axis 1")
    batch, networks, size = values[0]
    _need(constants[0].shape == () and 0 <= int(constants[0]) < networks, f"must select one of {networks} networks")
    return batch, size


def _flat(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(len(values[0]) == 2, f"needs [B, L], not {_shown(values)}")
    return values[0]


def _layer_norm(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    _need(attributes["axis"] == (1,), "must normalise axis 1")
    batch, size = _flat(values, constants, attributes)
    _need(all(constant.shape == (size,) for constant in constants), f"the weights do not fit {_shown(values)}")
    return batch, size


def _softmax(values: Sequence[Shape], constants: Constants, attributes: Attributes) -> Shape:
    fits = attributes["axis"] == (2,) and len(values[0]) == 3
    _need(fits, f"needs axis 2 of [B, actions, atoms], not axis {attributes['axis'][0]} of {_shown(values)}")
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
"""Operators of an encoder of convolutions with ReLU. Unsigned values with a zero point of 0 make the ReLU free."""

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
