"""Tests that a valid graph with one forbidden change is rejected before ONNX Runtime is imported."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, TensorProto, TensorShapeProto, helper, numpy_helper

from seer_runtime.onnx.check import NODES_MAX
from seer_runtime.onnx.encoder import INPUT, OUTPUT, GraphError, OnnxEncoder
from seer_runtime.system.ledger import Ledger
from tests.runtime.onnx_graphs import constant_of, edited, node_of

Edit = Callable[[ModelProto], object]


def _set(message: Any, changes: dict[str, Any]) -> None:
    for field, value in changes.items():
        if isinstance(value, list):
            del getattr(message, field)[:]
            getattr(message, field).extend(value)
        else:
            setattr(message, field, value)


def _node(index: int, **changes: Any) -> Edit:
    return lambda model: _set(model.graph.node[index], changes)


def _constant(called: str, **changes: Any) -> Edit:
    return lambda model: _set(constant_of(model, called), changes)


def _attribute(operator: str, name: str, value: Any) -> Edit:
    def edit(model: ModelProto) -> None:
        (attribute,) = (given for given in node_of(model, operator).attribute if given.name == name)
        attribute.CopyFrom(helper.make_attribute(name, value))

    return edit


def _array(name: str, array: Any) -> Edit:
    return lambda model: constant_of(model, name).CopyFrom(numpy_helper.from_array(array, name))


def _function(model: ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("ours", "Relu", ["x"], ["y"], body, model.opset_import))


def _branch(operator: str, attribute: str) -> Edit:
    branch = helper.make_attribute(attribute, helper.make_graph([], "branch", [], []))
    return _node(4, op_type=operator, attribute=[branch])


def _string_tensor(model: ModelProto) -> None:
    constant_of(model, "b").CopyFrom(helper.make_tensor("b", TensorProto.STRING, [16], [b"x"] * 16))


def _float_data(model: ModelProto) -> None:
    constant_of(model, "b").CopyFrom(helper.make_tensor("b", TensorProto.FLOAT, [16], [1.0] * 16))


def _sparse(model: ModelProto) -> None:
    values, indices = helper.make_tensor("b", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [16]))


def _twice_declared(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [16, 2, 3, 3]))


def _many_nodes(model: ModelProto) -> None:
    model.graph.node.extend([model.graph.node[4]] * NODES_MAX)


def _few_filters(model: ModelProto) -> None:
    _array("w", np.zeros((8, 2, 3, 3), np.float32))(model)
    _array("b", np.zeros(8, np.float32))(model)


def _relu_of_rows(model: ModelProto) -> None:
    model.graph.node.insert(7, helper.make_node("Relu", ["flat"], ["positive"]))
    _node(8, input=["positive", "w0", "b0"])(model)
    _node(9, input=["positive", "w1", "b1"])(model)


def _gemm_of_maps(model: ModelProto) -> None:
    del model.graph.node[6]
    for index in range(2):
        _array(f"w{index}", np.zeros((3, 16, 2, 2), np.float32))(model)
        _node(6 + index, input=["add", f"w{index}", f"b{index}"])(model)


def _extra(array: NDArray[Any]) -> Edit:
    return lambda model: model.graph.initializer.append(numpy_helper.from_array(array, "x"))


def _size(declared: str, axis: int, **dim: Any) -> Edit:
    def edit(model: ModelProto) -> None:
        (value,) = getattr(model.graph, declared)
        value.type.tensor_type.shape.dim[axis].CopyFrom(TensorShapeProto.Dimension(**dim))

    return edit


HOSTILE: dict[str, tuple[Edit, str]] = {
    # Fields that ONNX Runtime would accept.
    "function": (_function, "model has the unsupported field number 25"),
    "training": (lambda model: model.training_info.add(), "model has the unsupported field number 20"),
    "settings": (lambda model: model.metadata_props.add(key="ort_config", value="{}"), "model has .* number 14"),
    "two operator sets": (
        lambda model: model.opset_import.add(domain="x", version=1),
        "opset_import has too many values, the limit is 1",
    ),
    "newer operators": (lambda model: setattr(model.opset_import[0], "version", 18), r"not \(9, '', 17\)"),
    "older operators": (lambda model: setattr(model.opset_import[0], "version", 16), r"not \(9, '', 17\)"),
    "foreign operators": (lambda model: setattr(model.opset_import[0], "domain", "com.microsoft"), r"not \(9"),
    "newer format": (lambda model: setattr(model, "ir_version", 10), r"not \(9, '', 17\)"),
    "older format": (lambda model: setattr(model, "ir_version", 3), r"not \(9, '', 17\)"),
    "negative format": (lambda model: setattr(model, "ir_version", -1), "truncated, negative or not below"),
    "sparse": (_sparse, "graph has the unsupported field number 15"),
    "quantization": (
        lambda model: model.graph.quantization_annotation.add(),
        "graph has the unsupported field number 14",
    ),
    "value info": (lambda model: model.graph.value_info.add(name="conv"), "graph has the unsupported field number 13"),
    "constant as an input": (_twice_declared, "graph.input has too many values, the limit is 1"),
    "two outputs": (lambda model: model.graph.output.add(name="x"), "graph.output has too many values, the limit is 1"),
    "no graph": (lambda model: model.ClearField("graph"), "model has 0 values of graph, needs 1"),
    "domain": (_node(4, domain="com.microsoft"), "node has the unsupported field number 7"),
    "overload": (_node(4, overload="x"), "node has the unsupported field number 8"),
    "two results": (_node(3, output=["pool", "indices"]), "node.output has too many values, the limit is 1"),
    "If": (_branch("If", "then_branch"), "attribute has the unsupported field number 6"),
    "Loop": (_branch("Loop", "body"), "attribute has the unsupported field number 6"),
    "reference": (lambda model: setattr(model.graph.node[0].attribute[0], "ref_attr_name", "x"), "number 21"),
    "string tensor": (_string_tensor, "initializer has the unsupported field number 6"),
    "float_data": (_float_data, "initializer has the unsupported field number 4"),
    "segment": (lambda model: constant_of(model, "w").segment.SetInParent(), "initializer has .* number 3"),
    "location": (_constant("w", data_location=TensorProto.EXTERNAL), "initializer has .* number 14"),
    # Operators and their inputs.
    "Identity": (
        _node(4, op_type="Identity"),
        r"node 4 \(Identity\): this operator is not allowed in the graph of the encoder",
    ),
    "too many nodes": (_many_nodes, f"graph.node has too many values, the limit is {NODES_MAX}"),
    "two values of one name": (
        _node(4, output=["pool"]),
        r"node 4 \(Relu\): the output name 'pool' is empty or already used",
    ),
    "a value named like a constant": (
        _node(4, output=["w"]),
        r"node 4 \(Relu\): the output name 'w' is empty or already used",
    ),
    "a value without a name": (_node(4, output=[""]), r"node 4 \(Relu\): the output name '' is empty or already used"),
    "two constants of one name": (
        lambda model: setattr(constant_of(model, "b0"), "name", "b1"),
        "the constant name 'b1'",
    ),
    "a constant named like the input": (_constant("b", name=INPUT), f"the constant name '{INPUT}'"),
    "a constant named like the output": (_constant("b", name=OUTPUT), r"node 2 \(Conv\) has invalid inputs: div, w, b"),
    "a constant without a name": (_constant("b", name=""), "the constant name ''"),
    "cycle": (_node(4, input=["add"]), r"node 4 \(Relu\) reads add, which no earlier node outputs"),
    "itself": (_node(4, input=["relu"]), "reads relu, which no earlier node outputs"),
    "missing value": (_node(4, input=["nowhere"]), "reads nowhere, which no earlier node outputs"),
    "missing constant": (
        _node(2, input=["div", "w", "nowhere"]),
        r"node 2 \(Conv\) has invalid inputs: div, w, nowhere",
    ),
    "optional input": (_node(2, input=["div", "w"]), r"node 2 \(Conv\) has invalid inputs: div, w"),
    "one value too many": (_node(4, input=["pool", "conv"]), r"node 4 \(Relu\) has invalid inputs: pool, conv"),
    "one value too few": (_node(5, input=["relu"]), r"node 5 \(Add\) has invalid inputs: relu"),
    "values that are broadcast": (_node(5, input=["relu", "conv"]), "needs feature maps of equal shape, not"),
    "Relu of rows": (_relu_of_rows, r"needs feature maps of equal shape, not \[16, 64\]"),
    "Gemm of maps": (_gemm_of_maps, r"weights \[3, 16, 2, 2\] do not fit \[16, 16, 2, 2\]"),
    "Concat of maps": (
        _node(5, op_type="Concat", attribute=[helper.make_attribute("axis", 1)]),
        "needs inputs .*16, 2, 2",
    ),
    "constant as a value": (_node(4, input=["w"]), r"node 4 \(Relu\) has invalid inputs: w"),
    "value as a constant": (_node(1, input=["cast", "cast"]), r"node 1 \(Div\) has invalid inputs: cast, cast"),
    "weights of integers": (_node(1, input=["cast", "shape"]), r"node 1 \(Div\) has invalid inputs: cast, shape"),
    "input read twice": (_node(5, input=["relu", INPUT]), "Cast and no other node must read observations"),
    "second cast": (_node(4, op_type="Cast", attribute=[helper.make_attribute("to", 1)]), "node 4 .* reads pool"),
    "side branch": (_node(5, input=["pool", "pool"]), r"node 5 \(Add\) does not read relu"),
    "unused fc": (_node(9, input=["gemm1", "gemm1"]), "no node reads gemm0"),
    "unused constant": (_extra(np.zeros(2, np.float32)), "no node reads x"),
    "constant of doubles": (_extra(np.zeros(2)), "constant x has the unsupported data type 11"),
    "ends elsewhere": (_node(10, output=["other"]), "the last node outputs other"),
    # Attributes.
    "attribute twice": (
        lambda model: model.graph.node[0].attribute.append(model.graph.node[0].attribute[0]),
        "once each",
    ),
    "unlisted attribute": (_node(4, attribute=[helper.make_attribute("alpha", 1)]), "has attributes .*alpha"),
    "missing attribute": (_node(6, attribute=[]), r"node 6 \(Flatten\) has attributes \[\], expected"),
    "attribute of another type": (_attribute("Flatten", "axis", [1]), "attribute axis must be one integer"),
    "one number for several": (_attribute("Conv", "pads", 1), "attribute pads must be a list of integers"),
    "another axis": (_attribute("Flatten", "axis", 2), "must flatten from axis 1"),
    "lying attribute": (
        lambda model: setattr(model.graph.node[0].attribute[0], "type", AttributeProto.INTS),
        "attribute to must be one integer",
    ),
    "float attribute": (_attribute("Flatten", "axis", 1.0), "attribute has the unsupported field number 2"),
    "Cast to double": (_attribute("Cast", "to", TensorProto.DOUBLE), "must cast to float32"),
    "Concat of rows": (_attribute("Concat", "axis", 0), "must concatenate along axis 1"),
    "negative axis": (_attribute("Concat", "axis", -1), "truncated, negative or not below"),
    "Gemm without transpose": (_attribute("Gemm", "transB", 0), "transB must be 1"),
    "huge pads": (_attribute("Conv", "pads", [10**6] * 4), "padding 1000000 is out of range"),
    "pads as wide as the kernel": (_attribute("MaxPool", "pads", [3] * 4), "padding 3 is out of range"),
    "huge kernel": (_attribute("MaxPool", "kernel_shape", [10**6] * 2), "kernel 1000000, .* is out of range"),
    "no stride": (_attribute("MaxPool", "strides", [0, 0]), "stride 0, .* is out of range"),
    "huge stride": (_attribute("MaxPool", "strides", [2**62] * 2), "is out of range"),
    "oblong window": (_attribute("MaxPool", "kernel_shape", [3, 2]), "the window must be square"),
    "lopsided window": (_attribute("MaxPool", "pads", [1, 1, 1, 0]), "the window must be square"),
    "window of one axis": (_attribute("MaxPool", "strides", [2]), "the window must be square"),
    "window above the maps": (_attribute("MaxPool", "kernel_shape", [7, 7]), "the output is empty"),
    "another kernel than the weights'": (_attribute("Conv", "kernel_shape", [2, 2]), r"\[16, 2, 3, 3\] do not fit"),
    # Constants.
    "huge dims": (_constant("w", dims=[2**40, 2**40]), r"constant w of shape \[\d+, \d+\] has 1,152 bytes"),
    "negative dims": (_constant("b", dims=[-16]), "truncated, negative or not below"),
    "dims that cancel": (_constant("b", dims=[16, 0]), "constant b of shape"),
    "dims that wrap": (_constant("b", dims=[2**62 + 16]), "constant b of shape"),
    "no data": (_constant("b", dims=[0], raw_data=b""), r"constant b of shape \[0\] has 0 bytes"),
    "five axes": (_constant("w", dims=[16, 2, 3, 3, 1]), "initializer.dims has too many values, the limit is 4"),
    "less data": (_constant("b", raw_data=b"0" * 63), r"constant b of shape \[16\] has 63 bytes"),
    "more data": (_constant("b", raw_data=b"0" * 68), r"constant b of shape \[16\] has 68 bytes"),
    "half weights": (_array("b", np.zeros(16, np.float16)), "constant b has the unsupported data type 10"),
    "NaN": (_array("b", np.full(16, np.nan, np.float32)), "constant b contains NaN or infinity"),
    "infinite": (_array("w0", np.full((3, 64), -np.inf, np.float32)), "constant w0 contains NaN or infinity"),
    "other weights": (_array("w", np.zeros((16, 3, 3, 3), np.float32)), r"weights \[16, 3, 3, 3\] do not fit"),
    "few filters": (_few_filters, "8 filters are not a multiple of 16"),
    "other biases": (_array("b", np.zeros(15, np.float32)), r"biases \[15\] do not fit"),
    "other fc weights": (_array("w1", np.zeros((3, 65), np.float32)), r"weights \[3, 65\] do not fit"),
    "flat fc weights": (_array("w1", np.zeros(3, np.float32)), r"weights \[3\] do not fit"),
    "other fc biases": (_array("b1", np.zeros(4, np.float32)), r"biases \[4\] do not fit"),
    "scale of zero": (_array("scale", np.array(0, np.float32)), "the divisor must be one nonzero number"),
    "scale that is broadcast": (
        _array("scale", np.ones((1, 1, 1, 99), np.float32)),
        "the divisor must be one nonzero number",
    ),
    "another size": (_array("shape", np.array([0, 2, 4], np.int64)), r"cannot reshape rows of \[6\] to \[0, 2, 4\]"),
    "size to be inferred": (_array("shape", np.array([0, 2, -1], np.int64)), r"to \[0, 2, -1\]"),
    "sizes that cancel": (_array("shape", np.array([0, -2, -3], np.int64)), r"to \[0, -2, -3\]"),
    "rows mixed": (_array("shape", np.array([1, 2, 3], np.int64)), r"to \[1, 2, 3\]"),
    "flat latents": (_array("shape", np.array([0, 6], np.int64)), r"must reshape to \[B, N, L\]"),
    # Declarations.
    "float input": (
        lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 1),
        "of type 1 instead of observations",
    ),
    "another input": (
        lambda model: setattr(model.graph.input[0], "name", "x"),
        "declares x of type 2 instead of observations",
    ),
    "sequence": (lambda model: model.graph.input[0].type.sequence_type.SetInParent(), "type: more|number 4|of tensor"),
    "fixed batch": (_size("input", 0, dim_value=4), r"observations is not declared as \[B, C, h, w\]"),
    "free height": (_size("input", 2, dim_param="H"), "observations is not declared as"),
    "no height": (_size("input", 2, dim_value=0), "observations is not declared as"),
    "flat observations": (
        lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop(),
        "observations is not de",
    ),
    "another width": (_size("input", 3, dim_value=9), "do not fit"),
    "free latents": (_size("output", 2, dim_param="L"), r"latents is not declared as \[B, N, L\]"),
    "another latent": (_size("output", 2, dim_value=4), r"the graph declares latents \[2, 4\]"),
    "unprintable": (_node(4, output=["a\nb"]), "node.output is not printable ASCII text"),
    "endless name": (_node(4, output=["a" * 256]), "has 256 characters, the limit is 255"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_forbidden_change_is_rejected_before_onnx_runtime_is_imported(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit, message = HOSTILE[case]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(GraphError, match=message) as refusal:
        OnnxEncoder(edited(edit), threads=1, ledger=Ledger({}))
    assert str(refusal.value).isprintable()


def test_external_weights_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    os.mkfifo(canary)  # opening it for reading would block forever
    monkeypatch.chdir(tmp_path)

    def edit(model: ModelProto) -> None:
        weights = constant_of(model, "w")
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=canary.name)

    with pytest.raises(GraphError, match=r"initializer has the unsupported field number 1[34]"):
        OnnxEncoder(edited(edit), threads=1, ledger=Ledger({}))
