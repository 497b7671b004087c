"""Tests of graphs with damaged bytes: each is rejected with GraphError or is still a valid, bounded graph."""

import re
import tracemalloc
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_runtime.onnx.check import LIVE_ELEMENTS_MAX, GraphShapes, check_graph
from seer_runtime.onnx.encoder import MAX_BATCH, GraphError, OnnxEncoder
from seer_runtime.onnx.shapes import ENCODER_OPERATORS
from seer_runtime.onnx.wire import Field, Schema, read_message
from seer_runtime.system.ledger import Ledger
from tests.runtime.onnx_graphs import small_model

SOUND: bytes = small_model().SerializeToString(deterministic=True)
# Offsets of the weights. They are most of the bytes, and damage in them seldom matters.
WEIGHTS = [SOUND.index(tensor.raw_data) for tensor in small_model().graph.initializer if len(tensor.raw_data) > 99]
Edit = Callable[[bytearray], None]


def _places() -> st.SearchStrategy[int]:
    return st.integers(0, len(SOUND)) | st.integers(0, min(WEIGHTS)) | st.integers(len(SOUND) - 150, len(SOUND))


def _flip(place: int, bit: int) -> Edit:
    def edit(graph: bytearray) -> None:
        if place < len(graph):
            graph[place] ^= 1 << bit

    return edit


def _insert(place: int, extra: bytes) -> Edit:
    def edit(graph: bytearray) -> None:
        graph[place:place] = extra

    return edit


def _cut(place: int, count: int) -> Edit:
    def edit(graph: bytearray) -> None:
        del graph[place : place + count]

    return edit


EDITS = st.lists(
    st.builds(_flip, _places(), st.integers(0, 7))
    | st.builds(_insert, _places(), st.binary(max_size=12))
    | st.builds(_cut, _places(), st.integers(1, 400)),
    min_size=1,
    max_size=3,
)


@pytest.mark.integration
@settings(max_examples=600)
@given(EDITS)
def test_damaged_graph_is_rejected_or_harmless(edits: list[Edit]) -> None:
    damaged = bytearray(SOUND)
    for edit in edits:
        edit(damaged)
    graph = bytes(damaged)
    checked = _checked(graph)
    if isinstance(checked, str):
        assert checked.isprintable()
        return
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    assert {node.op_type for node in model.graph.node} <= ENCODER_OPERATORS.keys()
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert _largest_value(model) <= LIVE_ELEMENTS_MAX
    with np.errstate(all="ignore"):
        latents = OnnxEncoder(graph, threads=1, ledger=Ledger({}))(np.ones((2, *checked.observation_shape), np.uint8))
    assert latents.shape == (2, *checked.latent_shape)


def _checked(graph: bytes) -> GraphShapes | str:
    """Return the result or the message of the check. Fail if it allocates 500 kB or more."""
    tracemalloc.start()
    try:
        return check_graph(graph, max_batch=MAX_BATCH)
    except GraphError as refusal:
        return str(refusal)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 500_000


def _largest_value(model: onnx.ModelProto) -> int:
    """Return the elements of the largest value at the largest batch, from the shape inference of the ONNX package."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = MAX_BATCH
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred.value_info]
    assert len(sizes) == len(model.graph.node) - 1
    return max(int(np.prod(size)) for size in sizes)


def test_every_truncated_file_is_rejected() -> None:
    for length in range(len(SOUND)):
        with pytest.raises(GraphError):
            check_graph(SOUND[:length], max_batch=MAX_BATCH)


def test_dimension_with_both_a_number_and_a_symbol_is_rejected() -> None:
    model = small_model()
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "ab"
    graph = model.SerializeToString()
    symbol, both = b"\x0a\x04\x12\x02ab", b"\x0a\x04\x08\x03\x12\x00"
    assert graph.count(symbol) == 1
    with pytest.raises(GraphError, match="latents is not declared as"):
        check_graph(graph.replace(symbol, both), max_batch=MAX_BATCH)


INNER: Schema = {1: Field("text", str, least=0)}
OUTER: Schema = {
    1: Field("number", int, least=0, most=2),
    2: Field("raw", memoryview, least=0),
    3: Field("inner", INNER, least=0),
    20: Field("far", int, least=0),
}
EMPTY = {"number": [], "raw": [], "inner": [], "far": []}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", EMPTY),
        (b"\x08\x00\x08\x96\x01", {**EMPTY, "number": [0, 150]}),
        (b"\x08" + b"\xff" * 8 + b"\x7f", {**EMPTY, "number": [2**63 - 1]}),
        (b"\x12\x00\xa0\x01\x07", {**EMPTY, "raw": [b""], "far": [7]}),
        (b"\x1a\x04\x0a\x02ab\x12\x01x", {**EMPTY, "inner": [{"text": ["ab"]}], "raw": [b"x"]}),
    ],
)
def test_read_message_parses_valid_messages(data: bytes, message: object) -> None:
    assert read_message(memoryview(data), OUTER, "outer") == message


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\x08", "outer.number: a number is truncated"),
        (b"\x88", "outer: a number is truncated"),
        (b"\x08\x96", "outer.number: a number is truncated"),
        (b"\x08\x80\x00", "outer.number: a number is not in its shortest form"),
        (b"\x88\x00\x01", "outer: a number is not in its shortest form"),
        (b"\x08" + b"\xff" * 9 + b"\x01", "outer.number: a number is truncated, negative or not below 2^63"),
        (b"\x08" + b"\xff" * 70, "outer.number: a number is truncated, negative or not below 2^63"),
        (b"\x08\x01" * 3, "outer.number has too many values, the limit is 2"),
        (b"\x0a\x02\x01\x02", "outer.number has the wrong wire type 2"),  # packed
        (b"\x0d\x00\x00\x00\x00", "outer.number has the wrong wire type 5"),
        (b"\x10\x01", "outer.raw has the wrong wire type 0"),
        (b"\x1b\x1c", "outer.inner has the wrong wire type 3"),  # a group
        (b"\x22\x00", "outer has the unsupported field number 4"),
        (b"\x12\x05abcd", "outer.raw is truncated"),
        (b"\x12\xff\xff\xff\xff\x7f", "outer.raw is truncated"),
        (b"\x1a\x04\x0a\x01a", "outer.inner is truncated"),
        (b"\x1a\x02\x0a\x01a", "outer.inner.text is truncated"),  # the next byte belongs to another message
        # Other parsers merge the two messages.
        (b"\x1a\x00\x1a\x00", "outer.inner has too many values, the limit is 1"),
        (b"\x1a\x04\x0a\x02\xc3\xa9", "outer.inner.text is not printable ASCII text"),
    ],
)
def test_read_message_rejects_ambiguous_and_invalid_bytes(data: bytes, error: str) -> None:
    with pytest.raises(GraphError, match=f"^{re.escape(error)}"):
        read_message(memoryview(data), OUTER, "outer")


def test_read_message_rejects_a_missing_field() -> None:
    with pytest.raises(GraphError, match=r"^it has 0 values of number, needs 1$"):
        read_message(memoryview(b""), {1: Field("number", int)}, "it")
