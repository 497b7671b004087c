"""The ONNX graph of an encoder, built by hand: torch's exporters cost 24 to 155 MB of RSS, this costs 3."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.networks.spec import Conv, EncoderSpec, MaxPool, ReLU, Residual
from seer_runtime.onnx_check import INPUT, IR_VERSION, OPSET, OUTPUT


def encoder_graph(spec: EncoderSpec, weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """The serialized graph of the frozen layers: uint8 `[B, C, h, w]` to float32 latents `[B, *spec.latent_shape]`.

    `weights` are by name in the encoder's state; those above the cut are not read. Equal weights give equal bytes.
    Raises ValueError for a weight that is missing or of another shape or dtype.
    """
    from onnx import TensorProto, helper, numpy_helper

    builder = _Builder()
    for name, wanted in spec.frozen_weight_shapes.items():
        if name not in weights or weights[name].shape != wanted or weights[name].dtype != np.float32:
            raise ValueError(f"encoder {spec.name!r} needs a float32 weight {name} of shape {list(wanted)}")
        builder.constant(name, weights[name])

    pixels = builder.node("Cast", [INPUT], to=TensorProto.FLOAT)
    maps = _trunk(builder, spec, builder.node("Div", [pixels, builder.constant("scale", np.array(255, np.float32))]))
    if spec.features is not None and spec.whole:
        flat = builder.node("Flatten", [maps], axis=1)
        names = [(f"fcs.{network}.weight", f"fcs.{network}.bias") for network in range(spec.networks)]
        maps = builder.node("Concat", [builder.node("Gemm", [flat, *pair], transB=1) for pair in names], axis=1)
    shape = builder.constant("shape", np.array([0, *spec.latent_shape], np.int64))  # 0: B, as it comes
    builder.node("Reshape", [maps, shape], OUTPUT)

    observations = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", *spec.input_shape])
    latents = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", *spec.latent_shape])
    graph = helper.make_graph(builder.nodes, "encoder", [observations], [latents])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    # Constants last and one by one: the helpers copy what they are given, twice.
    for name, array in builder.constants.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


class _Builder:
    """Collects nodes and constants; a node is called after its output."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants[name] = array
        return name

    def node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output


def _trunk(builder: _Builder, spec: EncoderSpec, maps: str) -> str:
    """The trunk up to the cut over the value `maps`."""
    done = 0
    for layer in spec.layers[: spec.cut]:
        match layer:
            case Conv():
                maps = _convolve(builder, layer, done, maps)
            case MaxPool():
                maps = builder.node("MaxPool", [maps], **_window(layer))
            case ReLU():
                maps = builder.node("Relu", [maps])
            case Residual():
                branch = builder.node("Relu", [maps])
                for index, conv in enumerate(layer.convs, done):
                    branch = _convolve(builder, conv, index, branch)
                maps = builder.node("Add", [maps, branch])
        done += len(layer.convs)
    return maps


def _convolve(builder: _Builder, conv: Conv, index: int, maps: str) -> str:
    maps = builder.node("Conv", [maps, f"convs.{index}.weight", f"convs.{index}.bias"], **_window(conv))
    return builder.node("Relu", [maps]) if conv.relu else maps


def _window(layer: Conv | MaxPool) -> dict[str, Any]:
    return {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.padding] * 4,
    }
