"""Check an untrusted ONNX file before ONNX Runtime opens it.

Only graphs of the form that `seer_edge.networks.graph` writes are accepted: a chain of the operators in `shapes.py`,
with all weights inside the file. The check computes the shape of every intermediate value, and so bounds the memory
and the work before anything runs.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_runtime.onnx.shapes import (
    ENCODER_OPERATORS,
    HEAD_OPERATORS,
    INT8_OPERATORS,
    WINDOW,
    Attributes,
    Operator,
    Shape,
)
from seer_runtime.onnx.wire import Field, GraphError, Message, Schema, read_message

__all__ = [
    "FILE_BYTES_MAX",
    "INPUT",
    "IR_VERSION",
    "OPSET",
    "OUTPUT",
    "VALUES",
    "GraphError",
    "GraphShapes",
    "HeadShapes",
    "check_graph",
    "check_head",
    "check_int8",
]

INPUT, OUTPUT, VALUES = "observations", "latents", "values"
"""Names of the values: the input of an encoder, the output of an encoder and input of a head, the output of a head."""
OPSET, IR_VERSION = 17, 9

FILE_BYTES_MAX = 64 * 2**20
NODES_MAX = 128
LIVE_ELEMENTS_MAX = 2**24
"""Limit on the elements of all values in memory at one time, 64 MiB in float32. The largest encoder uses half."""
MULTIPLY_ADDS_MAX = 2**34
"""Limit on the multiply-adds for one batch. The largest encoder uses a sixth."""

_FLOAT32, _UINT8, _INT8, _INT32, _INT64 = 1, 2, 3, 6, 7
_DTYPES: dict[int, np.dtype[Any]] = {
    _FLOAT32: np.dtype("<f4"),
    _UINT8: np.dtype("u1"),
    _INT8: np.dtype("i1"),
    _INT32: np.dtype("<i4"),
    _INT64: np.dtype("<i8"),
}
_INT, _INTS = 2, 7  # attribute types
_PIECE_ELEMENTS = 2**16

_DIMENSION: Schema = {1: Field("size", int, least=0), 2: Field("symbol", str, least=0)}
_TENSOR_TYPE: Schema = {
    1: Field("elem_type", int),
    2: Field("shape", {1: Field("dim", _DIMENSION, most=4)}),
}
_DECLARATION: Schema = {1: Field("name", str), 2: Field("type", {1: Field("tensor", _TENSOR_TYPE)})}
_CONSTANT: Schema = {
    1: Field("dims", int, least=0, most=4),
    2: Field("data_type", int),
    8: Field("name", str),
    9: Field("raw_data", memoryview),
}
_ATTRIBUTE: Schema = {
    1: Field("name", str),
    3: Field("i", int, least=0),
    8: Field("ints", int, least=0, most=4),
    20: Field("type", int),
}
_NODE: Schema = {
    1: Field("input", str, most=16),
    2: Field("output", str),
    4: Field("op_type", str),
    5: Field("attribute", _ATTRIBUTE, least=0, most=3),
}
_GRAPH: Schema = {
    1: Field("node", _NODE, most=NODES_MAX),
    2: Field("name", str),
    5: Field("initializer", _CONSTANT, most=NODES_MAX),
    11: Field("input", _DECLARATION),
    12: Field("output", _DECLARATION),
}
_MODEL: Schema = {
    1: Field("ir_version", int),
    7: Field("graph", _GRAPH),
    8: Field("opset_import", {1: Field("domain", str), 2: Field("version", int)}),
}


@dataclass(frozen=True)
class GraphShapes:
    """The shapes of one row of an encoder's input and output, without the batch axis."""

    observation_shape: tuple[int, int, int]  # (C, h, w), uint8
    latent_shape: tuple[int, int]  # (N, L), float32


@dataclass(frozen=True)
class HeadShapes:
    """The shapes of one row of a head's input and output, without the batch axis."""

    latent_shape: tuple[int, int]  # (N, L), float32
    outputs: int  # M, float32


@dataclass(frozen=True)
class _Port:
    """The name, dtype and axes of a graph's input or output."""

    name: str
    elem_type: int
    axes: str


@dataclass(frozen=True)
class _Kind:
    """The rules for one kind of graph: its input, its output and its operators."""

    title: str
    input: _Port
    output: _Port
    operators: Mapping[str, Operator]
    first: str | None  # the only operator that may read the graph's input; None if the dtypes already ensure that


_LATENTS = _Port(OUTPUT, _FLOAT32, "N, L")
_ENCODER = _Kind("encoder", _Port(INPUT, _UINT8, "C, h, w"), _LATENTS, ENCODER_OPERATORS, "Cast")
_INT8_ENCODER = _Kind("int8 encoder", _ENCODER.input, _LATENTS, INT8_OPERATORS, None)
_HEAD = _Kind("head", _LATENTS, _Port(VALUES, _FLOAT32, "M"), HEAD_OPERATORS, "Gather")


@dataclass(frozen=True)
class _Node:
    title: str
    operator: str
    values: tuple[str, ...]  # names of the inputs that are computed: the graph's input or outputs of other nodes
    constants: tuple[NDArray[Any], ...]  # the inputs after those, which are constants
    output: str
    attributes: Attributes


def check_graph(graph: bytes, *, max_batch: int) -> GraphShapes:
    """Check the ONNX file `graph` as an encoder that runs on up to `max_batch` observations. Return its shapes.

    The weights are not copied. Raises GraphError if the file has other fields, operators, versions or dtypes, data
    outside the file, weights of a wrong shape or that are not finite, nodes that do not form one chain, or more work
    or memory than the limits above.
    """
    return _encoder_shapes(*_check(graph, _ENCODER, max_batch))


def check_int8(graph: bytes, *, max_batch: int) -> GraphShapes:
    """Check an encoder with int8 convolutions. Otherwise the same as `check_graph`."""
    return _encoder_shapes(*_check(graph, _INT8_ENCODER, max_batch))


def _encoder_shapes(input_shape: Shape, output_shape: Shape) -> GraphShapes:
    (channels, height, width), (networks, size) = input_shape, output_shape
    return GraphShapes((channels, height, width), (networks, size))


def check_head(graph: bytes, *, max_batch: int) -> HeadShapes:
    """Check the ONNX file `graph` as a head. Otherwise the same as `check_graph`."""
    (networks, size), (outputs,) = _check(graph, _HEAD, max_batch)
    return HeadShapes((networks, size), outputs)


def _check(graph: bytes, kind: _Kind, max_batch: int) -> tuple[Shape, Shape]:
    """Check a graph of one kind. Return the shapes of its input and output, without the batch axis."""
    if len(graph) > FILE_BYTES_MAX:
        raise GraphError(f"a file of {len(graph):,} bytes, the limit is {FILE_BYTES_MAX:,}")
    model = read_message(memoryview(graph), _MODEL, "model")
    (ir_version,), (opset,), (source,) = model["ir_version"], model["opset_import"], model["graph"]
    versions = ir_version, *opset["domain"], *opset["version"]
    if versions != (IR_VERSION, "", OPSET):
        raise GraphError(f"IR version, domain and operator set are {versions}, not {(IR_VERSION, '', OPSET)}")

    input_shape = _declared(source["input"][0], kind.input)
    output_shape = _declared(source["output"][0], kind.output)
    constants = _constants(source["initializer"], kind)
    nodes = [_node(message, index, constants, kind) for index, message in enumerate(source["node"])]
    shapes = _infer(nodes, (max_batch, *input_shape), constants.keys(), kind)
    last, output = nodes[-1].output, kind.output.name
    if last != output or shapes[last][1:] != output_shape:
        raise GraphError(
            f"the last node outputs {last} {list(shapes[last])}, but the graph declares {output} {list(output_shape)}"
        )
    read = {name for message in source["node"] for name in message["input"]}
    if unread := (shapes.keys() | constants.keys()) - read - {output}:
        raise GraphError(f"no node reads {min(unread)}")
    _check_costs(nodes, shapes, kind)
    return input_shape, output_shape


def _declared(message: Message, port: _Port) -> Shape:
    """Return the declared shape of the graph's input or output, without the batch axis."""
    (tensor,) = message["type"][0]["tensor"]
    batch, *dims = tensor["shape"][0]["dim"]
    if message["name"] != [port.name] or tensor["elem_type"] != [port.elem_type]:
        raise GraphError(
            f"the graph declares {message['name'][0]} of type {tensor['elem_type'][0]} instead of {port.name} "
            f"of type {port.elem_type}"
        )
    sizes = tuple(size for dim in dims for size in dim["size"])
    plain = [{"size": [size], "symbol": []} for size in sizes]
    axes = port.axes.count(",") + 1
    if batch != {"size": [], "symbol": ["B"]} or dims != plain or len(sizes) != axes or 0 in sizes:
        raise GraphError(f"{port.name} is not declared as [B, {port.axes}]")
    return sizes


def _constants(messages: list[Message], kind: _Kind) -> dict[str, NDArray[Any]]:
    """Return the constants of the file by name, as views into the file."""
    constants: dict[str, NDArray[Any]] = {}
    for message in messages:
        (name,), (data_type,), (raw,) = message["name"], message["data_type"], message["raw_data"]
        if name in ("", kind.input.name) or name in constants:
            raise GraphError(f"the constant name {name!r} is invalid or occurs twice")
        if data_type not in _DTYPES:
            raise GraphError(f"constant {name} has the unsupported data type {data_type}")
        dtype, dims = _DTYPES[data_type], message["dims"]
        if 0 in dims or math.prod(dims) * dtype.itemsize != len(raw):
            raise GraphError(f"constant {name} of shape {dims} has {len(raw):,} bytes of data")
        flat = np.frombuffer(raw, dtype)
        pieces = (flat[start : start + _PIECE_ELEMENTS] for start in range(0, len(flat), _PIECE_ELEMENTS))
        if not all(np.isfinite(piece).all() for piece in pieces):
            raise GraphError(f"constant {name} contains NaN or infinity")
        constants[name] = flat.reshape(dims)
    return constants


def _node(message: Message, index: int, constants: Mapping[str, NDArray[Any]], graph: _Kind) -> _Node:
    """Check the inputs and attributes of the node `message` against its operator. Return it with its constants."""
    (kind,), inputs = message["op_type"], message["input"]
    title = f"node {index} ({kind})"
    operator = graph.operators.get(kind)
    if operator is None:
        raise GraphError(f"{title}: this operator is not allowed in the graph of the {graph.title}")
    count = len(inputs) - len(operator.constants)
    values, names = inputs[: max(count, 0)], inputs[max(count, 0) :]
    dtypes = tuple(constants[name].dtype.type for name in names if name in constants)
    if (
        count != (operator.values or max(count, 1))
        or dtypes != operator.constants
        or not constants.keys().isdisjoint(values)
    ):
        raise GraphError(f"{title} has invalid inputs: {', '.join(inputs)}")
    attributes = {name: _attribute(given, title) for given in message["attribute"] for name in given["name"]}
    if sorted(attributes) != sorted(operator.attributes) or len(attributes) != len(message["attribute"]):
        raise GraphError(
            f"{title} has attributes {sorted(attributes)}, expected {sorted(operator.attributes)}, once each"
        )
    return _Node(title, kind, tuple(values), tuple(constants[name] for name in names), message["output"][0], attributes)


def _attribute(message: Message, title: str) -> tuple[int, ...]:
    """Return the integers of an attribute."""
    (name,), (kind,), one, several = message["name"], message["type"], message["i"], message["ints"]
    expected = (_INTS, 0, True) if name in WINDOW else (_INT, 1, False)
    if (kind, len(one), bool(several)) != expected:
        wanted = "a list of integers" if name in WINDOW else "one integer"
        raise GraphError(f"{title}: attribute {name} must be {wanted}")
    return (*one, *several)


def _infer(nodes: Sequence[_Node], input_shape: Shape, constants: Collection[str], kind: _Kind) -> dict[str, Shape]:
    """Return the shapes of the graph's input and of each node's output, by name.

    Each node must read the output of the previous node, or be a Gemm with the same input as the previous Gemm. So there
    is only one order of execution, and the values in memory at each point are known.
    """
    previous = source = kind.input.name
    shapes = {source: input_shape}
    gemm_inputs: tuple[str, ...] = ()
    for node in nodes:
        if node.output in shapes or node.output in constants or not node.output:
            raise GraphError(f"{node.title}: the output name {node.output!r} is empty or already used")
        for name in node.values:
            if name not in shapes:
                raise GraphError(f"{node.title} reads {name}, which no earlier node outputs")
            if kind.first is not None and (name == source) != (node.operator == kind.first):
                raise GraphError(f"{node.title} reads {name}, but {kind.first} and no other node must read {source}")
        if previous not in node.values and not (node.operator == "Gemm" and node.values == gemm_inputs):
            raise GraphError(f"{node.title} does not read {previous}, the output of the previous node")
        try:
            shapes[node.output] = kind.operators[node.operator].shape(
                [shapes[name] for name in node.values], node.constants, node.attributes
            )
        except GraphError as error:
            raise GraphError(f"{node.title}: {error}") from None
        previous = node.output
        gemm_inputs = node.values if node.operator == "Gemm" else ()
    return shapes


def _check_costs(nodes: Sequence[_Node], shapes: Mapping[str, Shape], kind: _Kind) -> None:
    """Raise GraphError if the graph needs too much memory or work.

    A value occupies memory until the last node that reads it has run.
    """
    last_reads = {name: index for index, node in enumerate(nodes) for name in node.values}
    live = math.prod(shapes[kind.input.name])
    work = 0
    for index, node in enumerate(nodes):
        elements = math.prod(shapes[node.output])
        live += elements
        work += elements * max((math.prod(constant.shape[1:]) for constant in node.constants), default=1)
        if live > LIVE_ELEMENTS_MAX or work > MULTIPLY_ADDS_MAX:
            raise GraphError(
                f"{node.title}: {live:,} elements in use and {work:,} multiply-adds for a batch of "
                f"{shapes[kind.input.name][0]}, the limits are {LIVE_ELEMENTS_MAX:,} and {MULTIPLY_ADDS_MAX:,}"
            )
        live -= sum(math.prod(shapes[name]) for name in {*node.values} if last_reads[name] == index)
