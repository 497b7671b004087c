"""ONNX graphs of encoders and heads. No torch: its exporters cost 24 to 155 MB of RSS, building by hand costs 3 MB."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seer_edge.networks.sac_spec import SacHeadSpec
from seer_edge.networks.spec import Conv, EncoderSpec, MaxPool, RainbowHeadSpec, ReLU, Residual
from seer_runtime.onnx.check import INPUT, IR_VERSION, OPSET, OUTPUT, VALUES

Weights = Mapping[str, NDArray[np.float32]]


def encoder_graph(spec: EncoderSpec, weights: Weights) -> bytes:
    """Build the graph of the frozen layers: uint8 `[B, C, h, w]` to float32 latents `[B, *spec.latent_shape]`.

    `weights` has the arrays of the encoder's state by name. Those above the cut are not read. Equal weights give equal
    bytes. Raises ValueError for a weight that is missing or has another shape or dtype.
    """
    from onnx import TensorProto

    builder = GraphBuilder()
    for name, wanted in spec.frozen_weight_shapes.items():
        builder.constant(name, checked_weight(f"encoder {spec.name!r}", weights, name, wanted))

    pixels = builder.node("Cast", [INPUT], to=TensorProto.FLOAT)
    maps = _trunk(builder, spec, builder.node("Div", [pixels, builder.constant("scale", np.array(255, np.float32))]))
    return _encoder(builder, spec, maps)


def int8_layers(spec: EncoderSpec) -> list[Conv]:
    """Return the convolutions that `int8_graph` quantizes. Raises ValueError as it does."""
    convs = [layer for layer in spec.layers if isinstance(layer, Conv) and layer.relu]
    if len(convs) < len(spec.layers) or not spec.whole:
        raise ValueError(f"encoder {spec.name!r} is not a whole chain of convolutions with ReLU")
    return convs


def int8_graph(spec: EncoderSpec, weights: Weights, largest: Sequence[float]) -> bytes:
    """Build the graph of the same encoder with int8 convolutions. Fully connected layers stay float32.

    `largest` has the largest value of each convolution's maps, which uint8 255 stands for. Weights are int8 with one
    scale for each filter, biases are int32. Raises as `encoder_graph`, and ValueError for an encoder that is not a
    whole chain of convolutions with ReLU.
    """
    convs = int8_layers(spec)
    builder = GraphBuilder()
    for name, wanted in spec.weight_shapes.items():
        array = checked_weight(f"encoder {spec.name!r}", weights, name, wanted)
        if name.startswith("fcs."):
            builder.constant(name, array)
    zero = builder.constant("zero", np.array(0, np.uint8))
    maps, scale = INPUT, builder.constant("scale", np.array(1 / 255, np.float32))
    for index, (conv, most) in enumerate(zip(convs, largest, strict=True)):
        name = f"convs.{index}"
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        steps = np.maximum(np.abs(weight).max(axis=(1, 2, 3)) / 127, np.finfo(np.float32).tiny).astype(np.float32)
        read = builder.constants[scale] * steps.astype(np.float64)
        after = builder.constant(f"{name}.scale", np.array(max(most, 1e-6) / 255, np.float32))
        inputs = [
            *(maps, scale, zero),
            builder.constant(f"{name}.weight", np.rint(weight / steps[:, None, None, None]).astype(np.int8)),
            builder.constant(f"{name}.steps", steps),
            builder.constant(f"{name}.zeros", np.zeros(len(steps), np.int8)),
            *(after, zero),
            builder.constant(f"{name}.bias", np.rint(bias / read).clip(-(2**30), 2**30).astype(np.int32)),
        ]
        maps, scale = builder.node("QLinearConv", inputs, **_window(conv)), after
    return _encoder(builder, spec, builder.node("DequantizeLinear", [maps, scale, zero]))


def _encoder(builder: "GraphBuilder", spec: EncoderSpec, maps: str) -> bytes:
    """Add the layers behind the trunk to its last maps, or to those at the cut, and return the graph."""
    from onnx import TensorProto

    if spec.features is not None and spec.whole:
        flat = builder.node("Flatten", [maps], axis=1)
        names = [(f"fcs.{network}.weight", f"fcs.{network}.bias") for network in range(spec.networks)]
        maps = builder.node("Concat", [builder.node("Gemm", [flat, *pair], transB=1) for pair in names], axis=1)
    shape = builder.constant("shape", np.array([0, *spec.latent_shape], np.int64))  # 0: the input's B
    builder.node("Reshape", [maps, shape], OUTPUT)
    return builder.serialized("encoder", (INPUT, TensorProto.UINT8, spec.input_shape), (OUTPUT, spec.latent_shape))


def graph_weights(graph: bytes, names: Collection[str]) -> dict[str, NDArray[np.float32]]:
    """Return the weights `names` of an encoder's graph, which names them as its state does."""
    import onnx

    tensors = onnx.load_from_string(graph).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in tensors if tensor.name in names}


def rainbow_graph(spec: RainbowHeadSpec, value_range: tuple[float, float], weights: Weights) -> bytes:
    """Build the graph of Rainbow's head without noise: latents `[B, 1, L]` to Q-values `[B, actions]`.

    `weights` has the arrays of the head's state by name. V + A - mean(A) is linear in the dueling streams, so the graph
    has one product, with weights that include the subtraction. Equal weights give equal bytes. Raises as
    `encoder_graph`.
    """
    rows, atoms = spec.actions * spec.atoms, spec.atoms

    def layer(name: str, outputs: int, inputs: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        weight = checked_weight("Rainbow's head", weights, f"{name}.weight", (outputs, inputs))
        return weight.astype(float), checked_weight("Rainbow's head", weights, f"{name}.bias", (outputs,)).astype(float)

    value, value_bias = layer("value", atoms, spec.hidden)
    advantage, advantage_bias = layer("advantage", rows, spec.hidden)
    advantage, advantage_bias = advantage.reshape(spec.actions, atoms, -1), advantage_bias.reshape(spec.actions, atoms)
    centred = advantage - advantage.mean(axis=0)
    dueling = np.concatenate([np.broadcast_to(value, centred.shape), centred], axis=2).reshape(rows, -1)
    dueling_bias = (value_bias + advantage_bias - advantage_bias.mean(axis=0)).reshape(-1)
    hidden, hidden_bias = layer("hidden", 2 * spec.hidden, spec.latent_size)

    builder = GraphBuilder()
    streams = builder.node("Relu", [builder.linear(builder.pick(0), "hidden", hidden, hidden_bias)])
    logits = builder.linear(streams, "dueling", dueling, dueling_bias)
    shape = builder.constant("shape", np.array([0, spec.actions, atoms], np.int64))
    probabilities = builder.node("Softmax", [builder.node("Reshape", [logits, shape])], axis=2)
    support = builder.constant("support", np.linspace(*value_range, atoms, dtype=np.float32))
    builder.node("MatMul", [probabilities, support], VALUES)
    return builder.head((1, spec.latent_size), spec.actions)


def actor_graph(spec: SacHeadSpec, network: int, networks: int, weights: Weights) -> bytes:
    """Build the graph of SAC's actor: latents `[B, N, L]` of all networks to mean actions `[B, A]` in [-1, 1].

    `weights` has the arrays of the actor's state by name. `network` is the actor's index among the `networks`. Equal
    weights give equal bytes. Raises as `encoder_graph`.
    """

    def checked(name: str, *shape: int) -> NDArray[np.float32]:
        return checked_weight("SAC's actor", weights, name, shape)

    builder = GraphBuilder()
    norm = [builder.constant(name, checked(name, spec.features)) for name in ("norm.weight", "norm.bias")]
    hidden = builder.node("LayerNormalization", [builder.pick(network), *norm], axis=1)
    sizes = (spec.features, spec.hidden, spec.hidden, 2 * spec.actions)
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        name, last = f"policy.layers.{index}", index == len(sizes) - 2
        weight, bias = checked(f"{name}.weight", outputs, inputs), checked(f"{name}.bias", outputs)
        kept = spec.actions if last else outputs  # the graph has no standard deviations
        hidden = builder.linear(hidden, name, weight[:kept], bias[:kept])
        hidden = builder.node("Tanh", [hidden], VALUES) if last else builder.node("Relu", [hidden])
    return builder.head((networks, spec.features), spec.actions)


def checked_weight(whose: str, weights: Weights, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the weight `name`. Raises ValueError where it is missing or has another shape or dtype."""
    if name not in weights or weights[name].shape != shape or weights[name].dtype != np.float32:
        raise ValueError(f"{whose} needs a float32 weight {name} of shape {list(shape)}")
    return weights[name]


class GraphBuilder:
    """Collects the nodes and constants of one graph. Values are named by strings.

    The readers of `seer_runtime` accept only the operators that the graphs in this package use.
    """

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """Add a constant. Return its name."""
        self.constants[name] = array
        return name

    def node(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """Add a node with one output. Return the name of the output."""
        from onnx import helper

        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def pick(self, network: int) -> str:
        """Select the latents `[B, L]` of one network from a head's input `[B, N, L]`."""
        return self.node("Gather", [OUTPUT, self.constant("network", np.array(network, np.int64))], axis=1)

    def linear(self, values: str, name: str, weight: NDArray[Any], bias: NDArray[Any], output: str = "") -> str:
        """Add a linear layer over `values` `[B, in]` with `weight` `[out, in]` and `bias` `[out]`."""
        names = (f"{name}.weight", weight), (f"{name}.bias", bias)
        pair = [self.constant(constant, array.astype(np.float32)) for constant, array in names]
        return self.node("Gemm", [values, *pair], output, transB=1)

    def head(self, latent_shape: tuple[int, int], outputs: int) -> bytes:
        """Return the graph of a head that reads latents `[B, *latent_shape]`; its last node must output `VALUES`."""
        from onnx import TensorProto

        return self.serialized("head", (OUTPUT, TensorProto.FLOAT, latent_shape), (VALUES, (outputs,)))

    def serialized(
        self, name: str, read: tuple[str, int, tuple[int, ...]], given: tuple[str, tuple[int, ...]]
    ) -> bytes:
        """Return the graph with one input `read` (name, element type, shape) and one output `given`, without B."""
        from onnx import TensorProto, helper, numpy_helper

        source = helper.make_tensor_value_info(read[0], read[1], ["B", *read[2]])
        output = helper.make_tensor_value_info(given[0], TensorProto.FLOAT, ["B", *given[1]])
        graph = helper.make_graph(self.nodes, name, [source], [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        # Add constants last and one by one: the helpers copy their arguments twice.
        for constant, array in self.constants.items():
            model.graph.initializer.append(numpy_helper.from_array(array, constant))
        serialized: bytes = model.SerializeToString(deterministic=True)
        return serialized


def _trunk(builder: GraphBuilder, spec: EncoderSpec, maps: str) -> str:
    """Add the trunk up to the cut over the value `maps`. Return the name of its last maps."""
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


def _convolve(builder: GraphBuilder, conv: Conv, index: int, maps: str) -> str:
    maps = builder.node("Conv", [maps, f"convs.{index}.weight", f"convs.{index}.bias"], **_window(conv))
    return builder.node("Relu", [maps]) if conv.relu else maps


def _window(layer: Conv | MaxPool) -> dict[str, Any]:
    return {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [layer.padding] * 4,
    }
