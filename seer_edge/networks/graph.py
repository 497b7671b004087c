"""The ONNX graph of an encoder, built by hand: torch's exporters cost 24 to 155 MB of RSS, this costs 3."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seer_edge.networks.spec import EncoderSpec
from seer_runtime.encoder import INPUT, OUTPUT

OPSET = 17
IR_VERSION = 9


def encoder_graph(spec: EncoderSpec, weights: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> bytes:
    """The serialized graph; `weights` holds (kernel `[out, in, k, k]`, bias `[out]`) a convolution.

    Equal weights give equal bytes.
    """
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Div", ["pixels", "scale"], ["hidden"]))
    constants = [numpy_helper.from_array(np.array(255, np.float32), "scale")]
    hidden = "hidden"
    for index, (conv, (kernel, bias)) in enumerate(zip(spec.convs, weights, strict=True)):
        names = f"conv{index}.weight", f"conv{index}.bias"
        constants += [numpy_helper.from_array(array, name) for array, name in zip((kernel, bias), names, strict=True)]
        nodes.append(
            helper.make_node(
                "Conv",
                [hidden, *names],
                [f"conv{index}"],
                kernel_shape=[conv.kernel, conv.kernel],
                strides=[conv.stride, conv.stride],
            )
        )
        hidden = f"relu{index}"
        nodes.append(helper.make_node("Relu", [f"conv{index}"], [hidden]))
    nodes.append(helper.make_node("Flatten", [hidden], [OUTPUT], axis=1))

    observations = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", *spec.shapes[0]])
    latents = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", spec.latent_size])
    graph = helper.make_graph(nodes, "encoder", [observations], [latents], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized
