"""Int8 encoders: close to the float32 ones, exact where nothing is rounded, and chosen by measurement."""

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from seer_edge.networks.graph import encoder_graph, graph_weights, int8_graph
from seer_edge.networks.spec import EncoderSpec, encoder_spec
from seer_runtime.onnx.check import GraphShapes, check_graph, check_int8
from seer_runtime.onnx.encoder import MAX_BATCH, GraphError, OnnxEncoder
from seer_runtime.onnx.encoder_choice import ERROR_MAX, EncoderChoice, compare, latent_error
from seer_runtime.system.ledger import Ledger

Weights = dict[str, NDArray[np.float32]]

SPECS = {
    "data-efficient": encoder_spec("data-efficient", input_shape=(4, 42, 42)),
    "canonical": encoder_spec("canonical", input_shape=(4, 44, 40)),
    "sac-ae": encoder_spec("sac-ae", input_shape=(9, 25, 25), networks=2, features=7),
}


def _weights(spec: EncoderSpec, seed: int = 5) -> Weights:
    rng = np.random.default_rng(seed)
    return {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in spec.weight_shapes.items()
    }


def _stacks(spec: EncoderSpec, count: int = 12, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *spec.input_shape), np.uint8)


def _open(graph: bytes, *, int8: bool) -> OnnxEncoder:
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    return OnnxEncoder(graph, threads=1, ledger=Ledger({}), check=check_int8 if int8 else check_graph)


def _largest(spec: EncoderSpec, weights: Weights, stacks: NDArray[np.uint8]) -> list[float]:
    parts = (dataclasses.replace(spec, frozen_layers=index + 1) for index in range(len(spec.layers)))
    return [float(_open(encoder_graph(part, weights), int8=False)(stacks).max()) for part in parts]


def _pair(name: str) -> tuple[OnnxEncoder, OnnxEncoder, NDArray[np.uint8]]:
    spec = SPECS[name]
    weights, stacks = _weights(spec), _stacks(spec)
    largest = _largest(spec, weights, stacks)
    return (
        _open(encoder_graph(spec, weights), int8=False),
        _open(int8_graph(spec, weights, largest), int8=True),
        stacks,
    )


@pytest.mark.parametrize("name", SPECS)
def test_latents_are_near_the_float32_ones(name: str) -> None:
    exact, rounded, stacks = _pair(name)
    assert 0 < latent_error(exact, rounded, stacks) <= ERROR_MAX
    assert rounded(stacks).shape == exact(stacks).shape


def test_latents_are_equal_where_nothing_is_rounded() -> None:
    """All weights and maps are multiples of their quantization step."""
    spec = SPECS["data-efficient"]
    weights = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes.items()}
    rng = np.random.default_rng(1)
    for index in range(2):
        weight = weights[f"convs.{index}.weight"]
        for filters in weight:  # each filter copies one pixel of its window
            filters[tuple(rng.integers(0, filters.shape))] = 1.0
    exact = _open(encoder_graph(spec, weights), int8=False)
    rounded = _open(int8_graph(spec, weights, [1.0, 1.0]), int8=True)
    stacks = _stacks(spec)
    np.testing.assert_allclose(rounded(stacks).copy(), exact(stacks), rtol=0, atol=1e-6)


def test_values_above_the_quantization_range_are_clipped() -> None:
    spec = SPECS["data-efficient"]
    weights = _weights(spec)
    half = [most / 2 for most in _largest(spec, weights, _stacks(spec))]
    rounded = _open(int8_graph(spec, weights, half), int8=True)
    assert rounded(_stacks(spec)).max() == pytest.approx(half[-1], rel=1e-6)


@pytest.mark.parametrize("name", SPECS)
def test_int8_graphs_pass_the_int8_check_only(name: str) -> None:
    spec = SPECS[name]
    graph = int8_graph(spec, _weights(spec), [1.0] * len(spec.layers))
    assert check_int8(graph, max_batch=MAX_BATCH) == GraphShapes(spec.input_shape, spec.latent_shape)
    assert int8_graph(spec, _weights(spec), [1.0] * len(spec.layers)) == graph
    for check, other in ((check_graph, graph), (check_int8, encoder_graph(spec, _weights(spec)))):
        with pytest.raises(GraphError, match="operator is not allowed"):
            check(other, max_batch=MAX_BATCH)


def test_graph_weights_returns_the_exported_weights() -> None:
    spec, weights = SPECS["sac-ae"], _weights(SPECS["sac-ae"])
    read = graph_weights(encoder_graph(spec, weights), spec.weight_shapes)
    assert read.keys() == weights.keys()
    assert all(np.array_equal(read[name], weights[name]) for name in weights)


def _set(name: str, array: NDArray[np.generic]) -> Callable[[ModelProto], None]:
    def edit(model: ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    return edit


def _set_one_number(model: ModelProto) -> None:
    """Replace the weights of a convolution, their scales and zero points by a single number each."""
    for name, dtype in (("weight", np.int8), ("steps", np.float32), ("zeros", np.int8)):
        _set(f"convs.1.{name}", np.ones((), dtype))(model)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("scale", np.array(0, np.float32)), "a scale is not positive"),
        (_set("scale", np.array(np.nan, np.float32)), "contains NaN or infinity"),
        (_set("scale", np.ones(2, np.float32)), "must each have one scale"),
        (_set("convs.1.scale", np.array(-1, np.float32)), "a scale is not positive"),
        (_set("convs.1.steps", np.zeros(64, np.float32)), "a scale is not positive"),
        (_set("convs.1.steps", np.ones(1, np.float32)), "zero point for each filter"),
        (_set("convs.1.zeros", np.zeros(63, np.int8)), "zero point for each filter"),
        (_set_one_number, "zero point for each filter"),
        (_set("convs.1.bias", np.zeros(63, np.int32)), "do not fit"),
        (_set("convs.1.weight", np.zeros((64, 32, 5, 4), np.int8)), "do not fit"),
        (_set("convs.1.weight", np.array(0, np.int8)), "zero point for each filter"),
        (_set("zero", np.array(0, np.int8)), "has invalid inputs"),
    ],
)
def test_modified_int8_graphs_are_rejected(edit: Callable[[ModelProto], None], message: str) -> None:
    spec = SPECS["data-efficient"]
    model = onnx.load_from_string(int8_graph(spec, _weights(spec), [1.0, 1.0]))
    edit(model)
    with pytest.raises(GraphError, match=message):
        check_int8(model.SerializeToString(), max_batch=MAX_BATCH)


def test_encoders_that_cannot_be_quantized_are_rejected() -> None:
    impala = encoder_spec("impala", input_shape=(4, 42, 42))
    part = dataclasses.replace(SPECS["sac-ae"], frozen_layers=2)
    for spec in (impala, part):
        with pytest.raises(ValueError, match="not a whole chain of convolutions with ReLU"):
            int8_graph(spec, _weights(spec), [1.0] * 4)


def test_the_int8_encoder_is_chosen_only_if_faster_and_accurate() -> None:
    for float_seconds, int8_seconds, error, runs in (
        (2e-3, 1e-3, ERROR_MAX, True),
        (1e-3, 1e-3, 0.0, False),
        (1e-3, 2e-3, 0.0, False),
        (2e-3, 1e-3, 1.01 * ERROR_MAX, False),
        (2e-3, 1e-3, np.inf, False),
    ):
        assert EncoderChoice(float_seconds, int8_seconds, error).int8 == runs


def test_compare_measures_both_encoders_on_the_same_stacks() -> None:
    exact, rounded, stacks = _pair("canonical")
    choice = compare(exact, rounded, stacks)
    assert choice.error == latent_error(exact, rounded, stacks)
    assert min(choice.float_seconds, choice.int8_seconds) > 0
    assert compare(exact, exact, stacks).error == 0
    spec = SPECS["canonical"]
    silent = {name: -np.abs(weight) for name, weight in _weights(spec).items()}
    nothing = _open(encoder_graph(spec, silent), int8=False)
    assert compare(nothing, nothing, stacks).error == np.inf
