"""Small valid encoder graphs, which tests damage in one or more places."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from seer_runtime.onnx.encoder import INPUT, OUTPUT

OBSERVATION, LATENT = (2, 8, 8), (2, 3)


def model_of(
    nodes: Sequence[NodeProto],
    constants: dict[str, NDArray[np.generic]],
    observation: tuple[int, ...] = OBSERVATION,
    latent: tuple[int, ...] = LATENT,
) -> ModelProto:
    observations = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", *observation])
    latents = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", *latent])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "encoder", [observations], [latents], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def small_model() -> ModelProto:
    """Return an encoder with all ten operators over 8x8 feature maps, in 3 KB."""
    node = helper.make_node
    window = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    rng = np.random.default_rng(7)
    constants: dict[str, NDArray[np.generic]] = {
        "scale": np.array(255, np.float32),
        "shape": np.array([0, *LATENT], np.int64),
        "w": rng.normal(size=(16, 2, 3, 3)).astype(np.float32),
        "b": rng.normal(size=16).astype(np.float32),
    }
    for network in range(2):
        constants[f"w{network}"] = rng.normal(size=(3, 64)).astype(np.float32)
        constants[f"b{network}"] = rng.normal(size=3).astype(np.float32)
    nodes = [
        node("Cast", [INPUT], ["cast"], to=TensorProto.FLOAT),
        node("Div", ["cast", "scale"], ["div"]),
        node("Conv", ["div", "w", "b"], ["conv"], **window),
        node("MaxPool", ["conv"], ["pool"], **window),
        node("Relu", ["pool"], ["relu"]),
        node("Add", ["pool", "relu"], ["add"]),
        node("Flatten", ["add"], ["flat"], axis=1),
        node("Gemm", ["flat", "w0", "b0"], ["gemm0"], transB=1),
        node("Gemm", ["flat", "w1", "b1"], ["gemm1"], transB=1),
        node("Concat", ["gemm0", "gemm1"], ["concat"], axis=1),
        node("Reshape", ["concat", "shape"], [OUTPUT]),
    ]
    return model_of(nodes, constants)


def edited(edit: Callable[[ModelProto], object]) -> bytes:
    """Return the bytes of the small model after `edit`."""
    model = small_model()
    edit(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def node_of(model: ModelProto, operator: str) -> NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def constant_of(model: ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def empty_graph() -> GraphProto:
    return helper.make_graph([], "branch", [], [])
