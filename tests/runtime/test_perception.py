"""Tests of the stored rows and the agent's inputs, with a real encoder in ONNX Runtime."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from seer_runtime.onnx.encoder import INPUT, MAX_BATCH, OUTPUT, OnnxEncoder
from seer_runtime.policy.perception import FramePerception, LatentPerception
from seer_runtime.policy.preprocess import FrameStack
from seer_runtime.replay.arena import Arena
from seer_runtime.replay.codecs import latent_codec
from seer_runtime.replay.crops import Crop
from seer_runtime.replay.storage import FixedRows
from seer_runtime.replay.store import RowStore
from seer_runtime.system.ledger import Ledger, Line
from tests.runtime.naive_replay import NaiveReplay

STACK, NETWORKS, WIDTH = 3, 2, 5
SHAPES = [((6, 7), (6, 7)), ((6, 7), (4, 5)), ((3, 6, 7), (6, 7)), ((3, 6, 7), (5, 4)), ((3, 6, 7), (1, 7))]


class CountingEncoder(OnnxEncoder):
    """An encoder that records the number of stacks of each call."""

    calls: list[int]

    def __call__(self, observations: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.calls.append(len(observations))
        return super().__call__(observations)


class Rig:
    """A linear encoder with small integer weights, so that its latents are exact in any order of summation."""

    def __init__(self, frame: tuple[int, ...], crop: tuple[int, int]) -> None:
        self.frame, self.crop = frame, Crop((frame[-2], frame[-1]), crop)
        self.ledger = Ledger({})
        self.shape = (STACK * int(np.prod(frame[:-2])), *crop)
        size = int(np.prod(self.shape))
        self.weights = np.random.default_rng(1).integers(-9, 10, (size, NETWORKS * WIDTH)).astype(np.float32)
        self.encoder = CountingEncoder(self._graph(), threads=1, ledger=self.ledger)
        self.encoder.calls = []
        self.empty = self.ledger.held_bytes(Line.WORKSPACE)
        # The log is used only for its crops. Its rows are the observed frames.
        self.log = NaiveReplay(1_000, STACK, frame, crop)
        self.rng = np.random.default_rng(2)

    def _graph(self) -> bytes:
        columns = np.split(self.weights, NETWORKS, axis=1)
        products = [f"product{network}" for network in range(NETWORKS)]
        nodes = [
            helper.make_node("Cast", [INPUT], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["pixels", "one"], ["whole"]),
            helper.make_node("Flatten", ["whole"], ["flat"], axis=1),
            *(helper.make_node("Gemm", ["flat", f"w{name}", "bias"], [name], transB=1) for name in products),
            helper.make_node("Concat", products, ["product"], axis=1),
            helper.make_node("Reshape", ["product", "shape"], [OUTPUT]),
        ]
        constants = [
            *(numpy_helper.from_array(part.T.copy(), f"w{name}") for part, name in zip(columns, products, strict=True)),
            numpy_helper.from_array(np.zeros(WIDTH, np.float32), "bias"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
            numpy_helper.from_array(np.array([0, NETWORKS, WIDTH], np.int64), "shape"),
        ]
        observations = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["B", *self.shape])
        latents = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["B", NETWORKS, WIDTH])
        graph = helper.make_graph(nodes, "encoder", [observations], [latents], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        serialized: bytes = model.SerializeToString()
        return serialized

    def latent(self, row: int, offset: tuple[int, int]) -> NDArray[np.float32]:
        """Return the expected latents of one crop of a row's stack."""
        flat = self.log.cropped(row, offset).ravel().astype(np.int64)
        return (flat @ self.weights.astype(np.int64)).astype(np.float32).reshape(NETWORKS, WIDTH)

    def stack(self) -> FrameStack:
        return FrameStack(STACK, self.frame, self.ledger.allocate(Line.WORKSPACE, (STACK, *self.frame), np.uint8))

    def frames(self, count: int) -> Iterator[tuple[int, NDArray[np.uint8], bool]]:
        """Yield row id, frame and whether it is the first of its episode. Episodes have four steps."""
        for step in range(count):
            frame = self.rng.integers(0, 256, self.frame, np.uint8)
            row = self.log.step(frame, 0, 0.0, terminated=step % 4 == 3, truncated=False)
            yield row, frame, step % 4 == 0

    def perception(self, augmentations: int, seed: int = 3) -> LatentPerception:
        rng = np.random.default_rng(seed)
        return LatentPerception(
            self.stack(), self.crop, self.encoder, self.ledger, augmentations=augmentations, rng=rng
        )


@pytest.mark.parametrize(("frame", "crop"), SHAPES)
def test_frame_perception_stores_whole_frames_and_acts_on_the_center(
    frame: tuple[int, ...], crop: tuple[int, int]
) -> None:
    rig = Rig(frame, crop)
    perception = FramePerception(rig.stack(), rig.crop, rig.ledger)
    for row, pixels, first in rig.frames(11):
        observed = perception.observe(pixels, first=first)
        np.testing.assert_array_equal(observed.row, pixels)
        assert observed.input.shape == rig.shape
        np.testing.assert_array_equal(observed.input, rig.log.cropped(row, rig.log.center()))
    held = rig.empty + STACK * pixels.nbytes
    assert rig.ledger.held_bytes(Line.WORKSPACE) == held + observed.input.nbytes
    perception.release()
    assert rig.ledger.held_bytes(Line.WORKSPACE) == held  # the caller owns the stack


@pytest.mark.parametrize(("frame", "crop"), SHAPES)
@pytest.mark.parametrize("augmentations", [0, 1, 4])
def test_latent_perception_encodes_k_crops_and_the_center_in_one_call(
    frame: tuple[int, ...], crop: tuple[int, int], augmentations: int
) -> None:
    rig = Rig(frame, crop)
    perception = rig.perception(augmentations)
    twin = np.random.default_rng(3)
    whole = rig.crop.whole
    for row, pixels, first in rig.frames(9):
        observed = perception.observe(pixels, first=first)
        assert observed.row.shape == (augmentations, NETWORKS, WIDTH)
        assert observed.row.dtype == observed.input.dtype == np.float32
        for latent, offset in zip(observed.row, rig.log.draw_crops(twin, augmentations), strict=True):
            np.testing.assert_array_equal(latent, rig.latent(row, offset))
        np.testing.assert_array_equal(observed.input, rig.latent(row, rig.log.center()))
    assert rig.encoder.calls == [max(augmentations, 1) if whole else augmentations + 1] * 9
    assert perception.rng.bit_generator.state == twin.bit_generator.state
    perception.release()
    assert rig.ledger.held_bytes(Line.WORKSPACE) == rig.empty + STACK * pixels.nbytes


def test_evaluation_draws_no_crops_and_keeps_the_latents_of_the_other_perception() -> None:
    rig, other = Rig((3, 6, 7), (5, 4)), Rig((3, 6, 7), (5, 4))
    acting, evaluating = rig.perception(4), rig.perception(0, seed=9)
    before = evaluating.rng.bit_generator.state
    for (_, frame, first), (_, unseen, _) in zip(rig.frames(6), other.frames(6), strict=True):
        observed = acting.observe(frame, first=first)
        kept = observed.row.copy(), observed.input.copy()
        evaluating.observe(255 - unseen, first=first)
        np.testing.assert_array_equal(observed.row, kept[0])
        np.testing.assert_array_equal(observed.input, kept[1])
    assert evaluating.rng.bit_generator.state == before
    assert rig.encoder.calls == [5, 1] * 6


def test_current_encodes_the_last_observation_of_the_frame_phase() -> None:
    rig = Rig((3, 6, 7), (5, 4))
    frames = FramePerception(rig.stack(), rig.crop, rig.ledger)
    rows = [(row, frames.observe(pixels, first=first)) for row, pixels, first in rig.frames(6)]
    row, _ = rows[-1]
    latents = LatentPerception(
        frames.stack, rig.crop, rig.encoder, rig.ledger, augmentations=2, rng=np.random.default_rng(3)
    )
    twin = np.random.default_rng(3)
    for _ in range(2):  # a second call encodes other crops of the same observation
        observed = latents.current()
        for latent, offset in zip(observed.row, rig.log.draw_crops(twin, 2), strict=True):
            np.testing.assert_array_equal(latent, rig.latent(row, offset))
        np.testing.assert_array_equal(observed.input, rig.latent(row, rig.log.center()))


def test_store_returns_every_latent_of_an_observed_row() -> None:
    rig = Rig((3, 6, 7), (5, 4))
    codec = latent_codec("float32", (NETWORKS, WIDTH), 4)
    store = RowStore(FixedRows(Arena(10 * codec.row_bytes, rig.ledger), codec), stack=1, ledger=rig.ledger)
    perception, rows = rig.perception(4), []
    for _, pixels, first in rig.frames(10):
        observed = perception.observe(pixels, first=first)
        rows.append(observed.row.copy())
        store.append(observed.row, 0, 0.0, terminated=False, truncated=False)
    for k in range(4):
        out = np.zeros((10, NETWORKS, WIDTH), np.float32)
        store.gather(np.arange(10), np.full((10, 1), k), out)
        np.testing.assert_array_equal(out, np.stack(rows)[:, k])


def test_encoder_rejects_other_shapes_and_dtypes() -> None:
    encoder = Rig((3, 6, 7), (5, 4)).encoder
    assert (encoder.observation_shape, encoder.latent_shape) == ((9, 5, 4), (NETWORKS, WIDTH))
    good = np.zeros((MAX_BATCH, 9, 5, 4), np.uint8)
    assert encoder(good).shape == (MAX_BATCH, NETWORKS, WIDTH)
    others: list[Any] = [good.astype(np.float32), good[:, ::-1], good[..., ::2]]
    for bad in others:
        with pytest.raises(ValueError, match="expected contiguous uint8 stacks"):
            encoder(bad)
    for bad in (np.zeros((MAX_BATCH + 1, 9, 5, 4), np.uint8), np.zeros((1, 3, 5, 4), np.uint8), good[0]):
        with pytest.raises(ValueError, match=rf"expected at most {MAX_BATCH} stacks \[9, 5, 4\]"):
            encoder(bad)
