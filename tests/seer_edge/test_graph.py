"""The hand-built ONNX graph, run by ONNX Runtime, against the torch encoder that it stands for."""

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from seer_edge.networks.encoder import Encoder
from seer_edge.networks.graph import encoder_graph
from seer_edge.networks.spec import ENCODERS, EncoderSpec, encoder_spec
from seer_runtime.encoder import INPUT, MAX_BATCH, OUTPUT, OnnxEncoder
from seer_runtime.ledger import BudgetError, Ledger, Line

Weights = list[tuple[NDArray[np.float32], NDArray[np.float32]]]

CASES = [
    (name, stack, frame)
    for name in ENCODERS
    for stack in (1, 3, 4)
    for frame in ((84, 84), (42, 42), (84, 50), (36, 64))
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def _encoder(spec: EncoderSpec, scale: float = 1.0) -> Encoder:
    encoder = Encoder(spec, torch.Generator().manual_seed(5))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(scale)
    return encoder


def _weights(encoder: Encoder) -> Weights:
    return [(conv.weight.detach().numpy().copy(), conv.bias.detach().numpy().copy()) for conv in encoder.convs]


def _onnx(spec: EncoderSpec, encoder: Encoder) -> OnnxEncoder:
    return OnnxEncoder(encoder_graph(spec, _weights(encoder)), threads=1, ledger=Ledger({}))


def _stacks(spec: EncoderSpec, batch: int, seed: int = 0) -> NDArray[np.uint8]:
    stacks = np.random.default_rng(seed).integers(0, 256, (batch, *spec.shapes[0]), np.uint8)
    stacks[0], stacks[-1] = 0, 255
    return stacks


@pytest.mark.parametrize(("name", "stack", "frame"), CASES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_latents_are_those_of_torch(name: str, stack: int, frame: tuple[int, int], scale: float) -> None:
    spec = encoder_spec(name, stack=stack, frame_shape=frame)
    encoder = _encoder(spec, scale)
    runtime = _onnx(spec, encoder)
    assert runtime.observation_shape == spec.shapes[0]
    assert runtime.latent_shape == (spec.latent_size,)
    for batch in (1, 2, 7, MAX_BATCH):
        stacks = _stacks(spec, batch)
        before = stacks.copy()
        with torch.no_grad():
            wanted = encoder(torch.from_numpy(stacks)).numpy()
        got = runtime(stacks)
        assert got.shape == wanted.shape
        assert got.dtype == np.float32
        assert wanted.max() > 0
        assert np.abs(got - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())
        np.testing.assert_array_equal(stacks, before)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_row_is_the_same_alone_and_in_a_batch(name: str) -> None:
    spec = encoder_spec(name, stack=4, frame_shape=(42, 42))
    runtime = _onnx(spec, _encoder(spec))
    stacks = _stacks(spec, MAX_BATCH)
    together = runtime(stacks).copy()
    alone = np.concatenate([runtime(stacks[row : row + 1]).copy() for row in range(MAX_BATCH)])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    assert len(np.unique(together, axis=0)) == MAX_BATCH


@pytest.mark.parametrize("name", ENCODERS)
def test_graph_is_sound_and_takes_uint8(name: str) -> None:
    spec = encoder_spec(name, stack=4, frame_shape=(84, 84))
    model = onnx.load_from_string(encoder_graph(spec, _weights(_encoder(spec))))
    onnx.checker.check_model(model, full_check=True)
    (model_input,), (model_output,) = model.graph.input, model.graph.output
    assert (model_input.name, model_output.name) == (INPUT, OUTPUT)
    assert model_input.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model_output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_value for size in model_output.type.tensor_type.shape.dim] == [0, spec.latent_size]


@pytest.mark.parametrize("name", ENCODERS)
def test_equal_weights_give_equal_bytes(name: str) -> None:
    spec = encoder_spec(name, stack=4, frame_shape=(84, 84))
    graph = encoder_graph(spec, _weights(_encoder(spec)))
    assert encoder_graph(spec, _weights(_encoder(spec))) == graph
    assert encoder_graph(spec, [tuple(map(np.asfortranarray, pair)) for pair in _weights(_encoder(spec))]) == graph
    changed = _weights(_encoder(spec))
    changed[-1][1][-1] = np.nextafter(changed[-1][1][-1], np.float32(1))
    assert encoder_graph(spec, changed) != graph


def test_one_convolution_too_few_is_refused() -> None:
    spec = encoder_spec("canonical", stack=4, frame_shape=(84, 84))
    with pytest.raises(ValueError, match="zip"):
        encoder_graph(spec, _weights(_encoder(spec))[:2])


def test_runtime_latents_are_counted_as_workspace() -> None:
    spec = encoder_spec("data-efficient", stack=4, frame_shape=(42, 42))
    graph, size_bytes = encoder_graph(spec, _weights(_encoder(spec))), MAX_BATCH * spec.latent_size * 4
    ledger = Ledger({Line.WORKSPACE: size_bytes})
    OnnxEncoder(graph, threads=1, ledger=ledger)
    assert ledger.held_bytes(Line.WORKSPACE) == size_bytes
    with pytest.raises(BudgetError, match="workspace"):
        OnnxEncoder(graph, threads=1, ledger=Ledger({Line.WORKSPACE: size_bytes - 1}))


def test_what_the_runtime_cannot_read_as_it_lies_in_memory_is_refused() -> None:
    """The graph's input is bound by address, so another dtype or a strided view would be read as garbage."""
    spec = encoder_spec("data-efficient", stack=4, frame_shape=(42, 42))
    runtime = _onnx(spec, _encoder(spec))
    stacks = _stacks(spec, 16)
    for wrong in (stacks[::2], stacks.astype(np.float32), np.asfortranarray(stacks), stacks.astype(np.int8)):
        with pytest.raises(ValueError, match="uint8"):
            runtime(wrong)
    for wrong in (stacks[:, :3].copy(), stacks[:, :, :41].copy(), stacks[0], np.repeat(stacks, 5, axis=0)):
        with pytest.raises(ValueError, match=r"64, 4, 42, 42|4, 42, 42"):
            runtime(wrong)
