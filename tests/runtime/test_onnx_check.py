"""Tests that the check accepts every encoder that seer-edge writes, and bounds the memory and work of a graph."""

import dataclasses
import sys
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, helper

import seer_runtime.onnx.encoder
from seer_edge.networks.graph import encoder_graph
from seer_edge.networks.spec import ENCODERS, EncoderSpec, encoder_spec
from seer_runtime.onnx.check import FILE_BYTES_MAX, LIVE_ELEMENTS_MAX, MULTIPLY_ADDS_MAX, GraphShapes, check_graph
from seer_runtime.onnx.encoder import INPUT, MAX_BATCH, OUTPUT, GraphError, OnnxEncoder, providers
from seer_runtime.system.ledger import Ledger, Line
from tests.runtime.onnx_graphs import LATENT, OBSERVATION, model_of, small_model

FCS: dict[str, dict[str, Any]] = {"bare": {}, "one": {"features": 7}, "fcs": {"networks": 2, "features": 50}}


def graph_of(spec: EncoderSpec) -> bytes:
    rng = np.random.default_rng(5)
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in spec.weight_shapes.items()}
    return encoder_graph(spec, weights)


@pytest.mark.parametrize("fcs", FCS)
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_passes_at_every_cut_and_computes_the_same_latents(name: str, fcs: str) -> None:
    whole = encoder_spec(name, input_shape=(9, 44, 40), **FCS[fcs])
    for spec in (whole, *(dataclasses.replace(whole, frozen_layers=cut) for cut in whole.cuts)):
        graph = graph_of(spec)
        assert check_graph(graph, max_batch=MAX_BATCH) == GraphShapes(spec.input_shape, spec.latent_shape)
        observations = np.random.default_rng(3).integers(0, 256, (3, *spec.input_shape), np.uint8)
        unchecked = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        wanted = unchecked.run([OUTPUT], {INPUT: observations})[0]
        np.testing.assert_allclose(OnnxEncoder(graph, threads=1, ledger=Ledger({}))(observations), wanted, rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 210, 210), (9, 147, 147)], ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_of_the_largest_frames_pass_without_a_copy(name: str, size: tuple[int, int, int]) -> None:
    spec = encoder_spec(name, input_shape=size, **({} if size[0] == 4 else FCS["fcs"]))
    graph = graph_of(spec)
    tracemalloc.start()
    try:
        assert check_graph(graph, max_batch=MAX_BATCH).latent_shape == spec.latent_shape
        assert tracemalloc.get_traced_memory()[1] < 1_000_000  # for files of up to 58 MB
    finally:
        tracemalloc.stop()


def test_the_small_model_of_the_other_tests_is_valid() -> None:
    graph = small_model().SerializeToString()
    assert check_graph(graph, max_batch=MAX_BATCH) == GraphShapes(OBSERVATION, LATENT)
    assert OnnxEncoder(graph, threads=1, ledger=Ledger({}))(np.ones((3, *OBSERVATION), np.uint8)).any()


def _chain(nodes: list[NodeProto], latents: int, **constants: Any) -> bytes:
    """Return a graph of 1x8x8 observations in which `nodes` compute `flat`, of size `latents`, from `maps`."""
    before = [helper.make_node("Cast", [INPUT], ["cast"], to=1), helper.make_node("Div", ["cast", "scale"], ["maps"])]
    after = helper.make_node("Reshape", ["flat", "shape"], [OUTPUT])
    arrays: dict[str, NDArray[Any]] = {
        "scale": np.array(255, np.float32),
        "shape": np.array([0, 1, latents], np.int64),
        **constants,
    }
    serialized: bytes = model_of([*before, *nodes, after], arrays, (1, 8, 8), (1, latents)).SerializeToString()
    return serialized


def _flatten() -> NodeProto:
    return helper.make_node("Flatten", ["maps"], ["flat"], axis=1)


def _doubling(times: int) -> list[NodeProto]:
    names = [*(f"double{index}" for index in range(times)), "flat"]
    first = helper.make_node("Flatten", ["maps"], [names[0]], axis=1)
    return [first, *(helper.make_node("Concat", [name, name], [double], axis=1) for name, double in pairwise(names))]


def test_small_files_that_need_much_memory_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    doubled = _chain(_doubling(30), 64 << 30)
    broadcast = [_flatten(), helper.make_node("Add", ["flat", "maps"], ["sum"])]
    outer = _chain([*broadcast, helper.make_node("Flatten", ["sum"], ["out"], axis=1)], 64)
    assert max(len(doubled), len(outer)) < 3_000
    with pytest.raises(GraphError, match=r"elements in use"):
        OnnxEncoder(doubled, threads=1, ledger=Ledger({}))
    with pytest.raises(
        GraphError, match=r"node 3 \(Add\): needs feature maps of equal shape, not \[16, 64\] and \[16, 1, 8, 8\]"
    ):
        OnnxEncoder(outer, threads=1, ledger=Ledger({}))


RESIDUAL = [
    helper.make_node("Relu", ["maps"], ["relu"]),
    helper.make_node("Add", ["maps", "relu"], ["sum"]),
    helper.make_node("Flatten", ["sum"], ["flat"], axis=1),
]


@pytest.mark.parametrize(
    ("nodes", "latents", "live"),
    [
        ([_flatten()], 64, 2 * 64),  # the input and output of a node
        (RESIDUAL, 64, 3 * 64),  # and a value that a later node reads
        (_doubling(2), 256, 2 * 256),  # but no value that was read for the last time
    ],
    ids=["chain", "residual", "doubling"],
)
def test_memory_counts_only_values_that_are_still_needed(nodes: list[NodeProto], latents: int, live: int) -> None:
    graph = _chain(nodes, latents)
    most = LIVE_ELEMENTS_MAX // live
    assert check_graph(graph, max_batch=most).latent_shape == (1, latents)
    with pytest.raises(GraphError, match="elements in use"):
        check_graph(graph, max_batch=most + 1)


def test_graphs_above_the_work_limit_are_rejected() -> None:
    nodes = [
        helper.make_node("Conv", ["maps", "w0", "b"], ["conv"], kernel_shape=[3] * 2, strides=[1] * 2, pads=[1] * 4),
        helper.make_node("Conv", ["conv", "w1", "b"], ["wide"], kernel_shape=[15] * 2, strides=[1] * 2, pads=[7] * 4),
        helper.make_node("Flatten", ["wide"], ["flat"], axis=1),
    ]
    weights = {
        f"w{i}": np.ones((16, channels, side, side), np.float32) for i, channels, side in ((0, 1, 3), (1, 16, 15))
    }
    graph = _chain(nodes, 1024, b=np.ones(16, np.float32), **weights)
    # The multiply-adds of Cast and Div, the two convolutions, and Flatten and Reshape.
    row = 2 * 64 + 1024 * 9 + 1024 * 16 * 15**2 + 2 * 1024
    most = MULTIPLY_ADDS_MAX // row
    assert check_graph(graph, max_batch=most).latent_shape == (1, 1024)
    with pytest.raises(GraphError, match=f"{(most + 1) * row:,} multiply-adds"):
        check_graph(graph, max_batch=most + 1)


def test_files_above_the_size_limit_are_rejected() -> None:
    with pytest.raises(GraphError, match=f"a file of {FILE_BYTES_MAX + 1:,} bytes, the limit is"):
        check_graph(bytes(FILE_BYTES_MAX + 1), max_batch=1)
    with pytest.raises(GraphError, match="model has the unsupported field number 0"):
        check_graph(bytes(FILE_BYTES_MAX), max_batch=1)


def test_error_of_onnx_runtime_is_one_line_and_releases_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seer_runtime.onnx.encoder, "check_graph", lambda *_, **__: GraphShapes(OBSERVATION, LATENT))
    ledger = Ledger({})
    with pytest.raises(GraphError, match="ONNX Runtime cannot open it") as refusal:
        OnnxEncoder(small_model().SerializeToString()[:-9], threads=1, ledger=ledger)
    assert str(refusal.value).isprintable()
    assert ledger.held_bytes(Line.WORKSPACE) == 0


def test_encoder_falls_back_to_the_cpu_without_cuda() -> None:
    graph = small_model().SerializeToString()
    observations = np.ones((3, *OBSERVATION), np.uint8)
    wanted = OnnxEncoder(graph, threads=1, ledger=Ledger({}))(observations).copy()
    for device in ("cuda", "cuda:1"):
        encoder = OnnxEncoder(graph, threads=1, ledger=Ledger({}), device=device)
        np.testing.assert_array_equal(encoder(observations), wanted)


def test_cuda_is_preferred_if_onnx_runtime_supports_it() -> None:
    on_cpu, on_cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    both = [on_cuda, on_cpu]
    assert providers("cpu", both) == [on_cpu]
    assert providers("cuda", [on_cpu]) == [on_cpu]
    assert providers("cuda", both) == [(on_cuda, {"device_id": 0, "use_tf32": 0}), on_cpu]
    assert providers("cuda:3", both) == [(on_cuda, {"device_id": 3, "use_tf32": 0}), on_cpu]
