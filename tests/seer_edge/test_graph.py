"""The hand-built ONNX graph, run by ONNX Runtime, compared with the torch encoder that it was built from."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from seer_edge.networks.encoder import Encoder
from seer_edge.networks.graph import encoder_graph
from seer_edge.networks.spec import ENCODERS, EncoderSpec, encoder_spec
from seer_runtime.onnx.encoder import INPUT, MAX_BATCH, OUTPUT, OnnxEncoder
from seer_runtime.system.ledger import BudgetError, Ledger, Line

Weights = dict[str, NDArray[np.float32]]
FCS = {"bare": {}, "fcs": {"networks": 2, "features": 50}}

SHAPES = [(stack, *frame) for stack in (1, 3, 9) for frame in ((84, 84), (42, 42), (84, 50), (36, 64))]


def _encoder(spec: EncoderSpec, scale: float = 1.0) -> Encoder:
    encoder = Encoder(spec, torch.Generator().manual_seed(5))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(scale)
    return encoder


def _weights(encoder: Encoder) -> Weights:
    return {name: tensor.numpy().copy() for name, tensor in encoder.state_dict().items()}


def _onnx(spec: EncoderSpec, encoder: Encoder) -> OnnxEncoder:
    return OnnxEncoder(encoder_graph(spec, _weights(encoder)), threads=1, ledger=Ledger({}))


def _stacks(spec: EncoderSpec, batch: int, seed: int = 0) -> NDArray[np.uint8]:
    stacks = np.random.default_rng(seed).integers(0, 256, (batch, *spec.input_shape), np.uint8)
    stacks[0], stacks[-1] = 0, 255
    return stacks


def _torch_latents(encoder: Encoder, stacks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the outputs of the frozen layers, `[B, N, L]`."""
    with torch.no_grad():
        observations = torch.from_numpy(stacks)
        latents = encoder(observations) if encoder.spec.whole else encoder.frozen(observations).unsqueeze(1)
        return latents.numpy()


def _assert_latents_are_those_of_torch(spec: EncoderSpec, batches: tuple[int, ...], scale: float = 1.0) -> None:
    encoder = _encoder(spec, scale)
    runtime = _onnx(spec, encoder)
    assert runtime.observation_shape == spec.input_shape
    assert runtime.latent_shape == spec.latent_shape
    for batch in batches:
        stacks = _stacks(spec, batch)
        before = stacks.copy()
        wanted, got = _torch_latents(encoder, stacks), runtime(stacks)
        assert got.shape == wanted.shape == (batch, *spec.latent_shape)
        assert got.dtype == np.float32
        assert wanted.max() > 0
        assert np.abs(got - wanted).max() <= 1e-4 * max(1.0, np.abs(wanted).max())
        np.testing.assert_array_equal(stacks, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ENCODERS)
def test_latents_are_those_of_torch(name: str, shape: tuple[int, ...]) -> None:
    for scale in (1.0, 3.0):
        spec = encoder_spec(name, input_shape=shape)
        _assert_latents_are_those_of_torch(spec, (1, 2, 7, MAX_BATCH), scale)


@pytest.mark.parametrize("fcs", FCS)
@pytest.mark.parametrize("name", ENCODERS)
def test_latents_at_every_cut_are_those_of_torch(name: str, fcs: str) -> None:
    spec = encoder_spec(name, input_shape=(9, 44, 40), **FCS[fcs])
    _assert_latents_are_those_of_torch(spec, (1, 3))
    for cut in spec.cuts:
        _assert_latents_are_those_of_torch(dataclasses.replace(spec, frozen_layers=cut), (1, 3))


@pytest.mark.parametrize("fcs", FCS)
@pytest.mark.parametrize("name", ENCODERS)
def test_the_graph_holds_nothing_above_the_cut(name: str, fcs: str) -> None:
    spec = encoder_spec(name, input_shape=(9, 42, 42), **FCS[fcs])
    encoder = _encoder(spec)
    for cut in spec.cuts:
        part = dataclasses.replace(spec, frozen_layers=cut)
        model = onnx.load_from_string(encoder_graph(part, _weights(encoder)))
        onnx.checker.check_model(model, full_check=True)
        held = {constant.name: tuple(constant.dims) for constant in model.graph.initializer}
        assert part.frozen_weight_shapes == {name: held[name] for name in held if name not in ("scale", "shape")}
        needed = {name: weight for name, weight in _weights(encoder).items() if name in part.frozen_weight_shapes}
        assert encoder_graph(part, needed) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_row_is_the_same_alone_and_in_a_batch(name: str) -> None:
    spec = encoder_spec(name, input_shape=(4, 42, 42))
    runtime = _onnx(spec, _encoder(spec))
    stacks = _stacks(spec, MAX_BATCH)
    together = runtime(stacks).copy()
    alone = np.concatenate([runtime(stacks[row : row + 1]).copy() for row in range(MAX_BATCH)])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    assert len(np.unique(together, axis=0)) == MAX_BATCH


@pytest.mark.parametrize("name", ENCODERS)
def test_graph_is_valid_and_accepts_uint8(name: str) -> None:
    spec = encoder_spec(name, input_shape=(4, 84, 84))
    model = onnx.load_from_string(encoder_graph(spec, _weights(_encoder(spec))))
    onnx.checker.check_model(model, full_check=True)
    (model_input,), (model_output,) = model.graph.input, model.graph.output
    assert (model_input.name, model_output.name) == (INPUT, OUTPUT)
    assert model_input.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert model_output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [size.dim_value for size in model_output.type.tensor_type.shape.dim] == [0, *spec.latent_shape]


@pytest.mark.parametrize("name", ENCODERS)
def test_equal_weights_give_equal_bytes(name: str) -> None:
    spec = encoder_spec(name, input_shape=(4, 84, 84))
    graph = encoder_graph(spec, _weights(_encoder(spec)))
    assert encoder_graph(spec, _weights(_encoder(spec))) == graph
    strided = {name: np.asfortranarray(weight) for name, weight in reversed(_weights(_encoder(spec)).items())}
    assert encoder_graph(spec, strided) == graph
    changed = _weights(_encoder(spec))
    last = list(changed.values())[-1]
    last[-1] = np.nextafter(last[-1], np.float32(1))
    assert encoder_graph(spec, changed) != graph


@pytest.mark.parametrize("wrong", [None, np.zeros(63, np.float32), np.zeros(64, np.float64)])
def test_a_weight_that_is_not_the_encoders_is_refused(wrong: NDArray[np.float32] | None) -> None:
    spec = encoder_spec("canonical", input_shape=(4, 84, 84))
    weights = {name: weight for name, weight in _weights(_encoder(spec)).items() if name != "convs.2.bias"}
    if wrong is not None:
        weights["convs.2.bias"] = wrong
    with pytest.raises(ValueError, match=r"'canonical' needs a float32 weight convs\.2\.bias of shape \[64\]"):
        encoder_graph(spec, weights)


def test_runtime_latents_are_counted_as_workspace() -> None:
    spec = encoder_spec("data-efficient", input_shape=(4, 42, 42))
    graph, size_bytes = encoder_graph(spec, _weights(_encoder(spec))), MAX_BATCH * spec.latent_size * 4
    ledger = Ledger({Line.WORKSPACE: size_bytes})
    OnnxEncoder(graph, threads=1, ledger=ledger)
    assert ledger.held_bytes(Line.WORKSPACE) == size_bytes
    with pytest.raises(BudgetError, match="workspace"):
        OnnxEncoder(graph, threads=1, ledger=Ledger({Line.WORKSPACE: size_bytes - 1}))


def test_inputs_of_another_dtype_layout_or_shape_are_refused() -> None:
    """The graph's input is bound by address, so another dtype or a strided view would be read as garbage."""
    spec = encoder_spec("data-efficient", input_shape=(4, 42, 42))
    runtime = _onnx(spec, _encoder(spec))
    stacks = _stacks(spec, MAX_BATCH)
    for wrong in (stacks[::2], stacks.astype(np.float32), np.asfortranarray(stacks), stacks.astype(np.int8)):
        with pytest.raises(ValueError, match="uint8"):
            runtime(wrong)
    for wrong in (stacks[:, :3].copy(), stacks[:, :, :41].copy(), stacks[0], np.repeat(stacks, 2, axis=0)):
        with pytest.raises(ValueError, match=rf"at most {MAX_BATCH} stacks \[4, 42, 42\]"):
            runtime(wrong)
