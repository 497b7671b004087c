"""Whether an ONNX file is one of our encoders or heads, found out before ONNX Runtime sees it.

The file may come from anybody. Only what the graph builder writes is admitted: a chain of the operators in
`onnx_shapes` over weights in the file itself, whose largest intermediate values are known before anything is computed.
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
"""What an encoder reads; what it gives and a head reads; what a head gives."""
OPSET, IR_VERSION = 17, 9

FILE_BYTES_MAX = 64 * 2**20
NODES_MAX = 128
LIVE_ELEMENTS_MAX = 2**24
"""Of all values that wait to be read at one time, 64 MiB in float32: twice what the largest of our encoders has."""
MULTIPLY_ADDS_MAX = 2**34
"""Of one batch: six times what the largest of our encoders takes."""

_FLOAT32, _UINT8, _INT8, _INT32, _INT64 = 1, 2, 3, 6, 7
_DTYPES: dict[int, np.dtype[Any]] = {
    _FLOAT32: np.dtype("<f4"),
    _UINT8: np.dtype("u1"),
    _INT8: np.dtype("i1"),
    _INT32: np.dtype("<i4"),
    _INT64: np.dtype("<i8"),
}
_ONE_NUMBER, _NUMBERS = 2, 7  # types of attributes
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
    """What a row of the encoder's input and output looks like."""

    observation_shape: tuple[int, int, int]  # (C, h, w), uint8
    latent_shape: tuple[int, int]  # (N, L), float32


@dataclass(frozen=True)
class HeadShapes:
    """What a row of a head's input and output looks like."""

    latent_shape: tuple[int, int]  # (N, L), float32
    outputs: int  # M, float32


@dataclass(frozen=True)
class _Port:
    """The input or the output of a kind of graph."""

    name: str
    elem_type: int
    axes: str


@dataclass(frozen=True)
class _Kind:
    """What graphs of one kind read, do and give."""

    title: str
    input: _Port
    output: _Port
    operators: Mapping[str, Operator]
    first: str | None  # the operator that reads the input, and nothing else does; None where types alone tell


_LATENTS = _Port(OUTPUT, _FLOAT32, "N, L")
_ENCODER = _Kind("encoder", _Port(INPUT, _UINT8, "C, h, w"), _LATENTS, ENCODER_OPERATORS, "Cast")
_INT8_ENCODER = _Kind("int8 encoder", _ENCODER.input, _LATENTS, INT8_OPERATORS, None)
_HEAD = _Kind("head", _LATENTS, _Port(VALUES, _FLOAT32, "M"), HEAD_OPERATORS, "Gather")


@dataclass(frozen=True)
class _Node:
    title: str
    operator: str
    values: tuple[str, ...]  # names of what it reads from the input or from other nodes
    constants: tuple[NDArray[Any], ...]  # and what it reads after that
    output: str
    attributes: Attributes


def check_graph(graph: bytes, *, max_batch: int) -> GraphShapes:
    """The shapes of the encoder in the ONNX file `graph`, which is read at `max_batch` observations a batch.

    The weights are not copied. Raises GraphError for anything that is not an encoder of ours: other fields, operators,
    versions or dtypes, data outside the file, weights that do not fit or are not finite, a graph that is not one chain,
    more work or intermediate values than the limits above.
    """
    return _encoder_shapes(*_check(graph, _ENCODER, max_batch))


def check_int8(graph: bytes, *, max_batch: int) -> GraphShapes:
    """The same for an encoder whose convolutions are in whole numbers."""
    return _encoder_shapes(*_check(graph, _INT8_ENCODER, max_batch))


def _encoder_shapes(read: Shape, given: Shape) -> GraphShapes:
    (channels, height, width), (networks, size) = read, given
    return GraphShapes((channels, height, width), (networks, size))


def check_head(graph: bytes, *, max_batch: int) -> HeadShapes:
    """The shapes of the head in the ONNX file `graph`, as `check_graph` finds those of an encoder."""
    (networks, size), (outputs,) = _check(graph, _HEAD, max_batch)
    return HeadShapes((networks, size), outputs)


def _check(graph: bytes, kind: _Kind, max_batch: int) -> tuple[Shape, Shape]:
    """Shapes of the input and of the output, without the batch."""
    if len(graph) > FILE_BYTES_MAX:
        raise GraphError(f"a file of {len(graph):,} B, and {FILE_BYTES_MAX:,} are the most that one takes")
    model = read_message(memoryview(graph), _MODEL, "model")
    (ir_version,), (opset,), (source,) = model["ir_version"], model["opset_import"], model["graph"]
    versions = ir_version, *opset["domain"], *opset["version"]
    if versions != (IR_VERSION, "", OPSET):
        raise GraphError(f"IR version, domain and operator set are {versions}, not {(IR_VERSION, '', OPSET)}")

    read_shape = _declared(source["input"][0], kind.input)
    given_shape = _declared(source["output"][0], kind.output)
    constants = _constants(source["initializer"], kind)
    nodes = [_node(message, index, constants, kind) for index, message in enumerate(source["node"])]
    shapes = _infer(nodes, (max_batch, *read_shape), constants.keys(), kind)
    last, output = nodes[-1].output, kind.output.name
    if last != output or shapes[last][1:] != given_shape:
        raise GraphError(f"the last node gives {last} {list(shapes[last])}, declared is {output} {list(given_shape)}")
    read = {name for message in source["node"] for name in message["input"]}
    if unread := (shapes.keys() | constants.keys()) - read - {output}:
        raise GraphError(f"{min(unread)} is read by no node")
    _check_costs(nodes, shapes, kind)
    return read_shape, given_shape


def _declared(message: Message, port: _Port) -> Shape:
    """The declared shape of the graph's input or output, without the batch."""
    (tensor,) = message["type"][0]["tensor"]
    batch, *dims = tensor["shape"][0]["dim"]
    if message["name"] != [port.name] or tensor["elem_type"] != [port.elem_type]:
        raise GraphError(f"{message['name'][0]} of type {tensor['elem_type'][0]} is declared in place of {port.name}")
    sizes = tuple(size for dim in dims for size in dim["size"])
    plain = [{"size": [size], "symbol": []} for size in sizes]
    axes = port.axes.count(",") + 1
    if batch != {"size": [], "symbol": ["B"]} or dims != plain or len(sizes) != axes or 0 in sizes:
        raise GraphError(f"{port.name} is not declared as [B, {port.axes}]")
    return sizes


def _constants(messages: list[Message], kind: _Kind) -> dict[str, NDArray[Any]]:
    """The constants of the file by name, as views into it."""
    constants: dict[str, NDArray[Any]] = {}
    for message in messages:
        (name,), (data_type,), (raw,) = message["name"], message["data_type"], message["raw_data"]
        if name in ("", kind.input.name) or name in constants:
            raise GraphError(f"no constant, or no second one, can be called {name!r}")
        if data_type not in _DTYPES:
            raise GraphError(f"constant {name} has data type {data_type}, which is none of ours")
        dtype, dims = _DTYPES[data_type], message["dims"]
        if 0 in dims or math.prod(dims) * dtype.itemsize != len(raw):
            raise GraphError(f"constant {name} of shape {dims} has {len(raw):,} B")
        flat = np.frombuffer(raw, dtype)
        pieces = (flat[start : start + _PIECE_ELEMENTS] for start in range(0, len(flat), _PIECE_ELEMENTS))
        if not all(np.isfinite(piece).all() for piece in pieces):
            raise GraphError(f"constant {name} holds numbers that are not finite")
        constants[name] = flat.reshape(dims)
    return constants


def _node(message: Message, index: int, constants: Mapping[str, NDArray[Any]], graph: _Kind) -> _Node:
    """The node `message` with its constants looked up; it reads what its operator reads and has its attributes."""
    (kind,), inputs = message["op_type"], message["input"]
    title = f"node {index} ({kind})"
    operator = graph.operators.get(kind)
    if operator is None:
        raise GraphError(f"{title}: no {graph.title} has that operator")
    count = len(inputs) - len(operator.constants)
    values, names = inputs[: max(count, 0)], inputs[max(count, 0) :]
    dtypes = tuple(constants[name].dtype.type for name in names if name in constants)
    if (
        count != (operator.values or max(count, 1))
        or dtypes != operator.constants
        or not constants.keys().isdisjoint(values)
    ):
        raise GraphError(f"{title} cannot read {', '.join(inputs)}")
    attributes = {name: _attribute(given, title) for given in message["attribute"] for name in given["name"]}
    if sorted(attributes) != sorted(operator.attributes) or len(attributes) != len(message["attribute"]):
        raise GraphError(
            f"{title} has attributes {sorted(attributes)} and needs {sorted(operator.attributes)} once each"
        )
    return _Node(title, kind, tuple(values), tuple(constants[name] for name in names), message["output"][0], attributes)


def _attribute(message: Message, title: str) -> tuple[int, ...]:
    """The number or numbers of an attribute."""
    (name,), (kind,), one, several = message["name"], message["type"], message["i"], message["ints"]
    wanted = (_NUMBERS, 0, True) if name in WINDOW else (_ONE_NUMBER, 1, False)
    if (kind, len(one), bool(several)) != wanted:
        raise GraphError(f"{title}: attribute {name} is not what it should be, a number or numbers")
    return (*one, *several)


def _infer(nodes: Sequence[_Node], given: Shape, constants: Collection[str], kind: _Kind) -> dict[str, Shape]:
    """Shapes of the input and of what each node gives, by name.

    Each node reads the one before it, or is a Gemm beside another: so there is one order to run them in, and the
    values that live at one time are known.
    """
    before = source = kind.input.name
    shapes = {source: given}
    beside: tuple[str, ...] = ()
    for node in nodes:
        if node.output in shapes or node.output in constants or not node.output:
            raise GraphError(f"{node.title}: its output {node.output!r} has the name of something else, or none")
        for name in node.values:
            if name not in shapes:
                raise GraphError(f"{node.title} reads {name}, which no node before it gives")
            if kind.first is not None and (name == source) != (node.operator == kind.first):
                raise GraphError(f"{node.title} reads {name}: {kind.first} reads {source}, and nothing else does")
        if before not in node.values and not (node.operator == "Gemm" and node.values == beside):
            raise GraphError(f"{node.title} does not read {before}, which the node before it gives")
        try:
            shapes[node.output] = kind.operators[node.operator].shape(
                [shapes[name] for name in node.values], node.constants, node.attributes
            )
        except GraphError as error:
            raise GraphError(f"{node.title}: {error}") from None
        before = node.output
        beside = node.values if node.operator == "Gemm" else ()
    return shapes


def _check_costs(nodes: Sequence[_Node], shapes: Mapping[str, Shape], kind: _Kind) -> None:
    """Refuse what takes too much memory or time; a value lives until the last node that reads it has run."""
    last_reads = {name: index for index, node in enumerate(nodes) for name in node.values}
    live = math.prod(shapes[kind.input.name])
    work = 0
    for index, node in enumerate(nodes):
        given = math.prod(shapes[node.output])
        live += given
        work += given * max((math.prod(constant.shape[1:]) for constant in node.constants), default=1)
        if live > LIVE_ELEMENTS_MAX or work > MULTIPLY_ADDS_MAX:
            raise GraphError(
                f"{node.title}: {live:,} elements in use and {work:,} multiply-adds for a batch of "
                f"{shapes[kind.input.name][0]}; {LIVE_ELEMENTS_MAX:,} and {MULTIPLY_ADDS_MAX:,} are the most "
                "that one takes"
            )
        live -= sum(math.prod(shapes[name]) for name in {*node.values} if last_reads[name] == index)
