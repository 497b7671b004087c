"""Tests of the acting policy against a naive one, and of the rejection of invalid heads."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from seer_runtime import Policy
from seer_runtime.onnx.check import OUTPUT, GraphError, HeadShapes, check_head
from seer_runtime.onnx.encoder import INPUT
from seer_runtime.onnx.head import OnnxHead
from seer_runtime.policy.bundle import PolicySpec
from seer_runtime.policy.preprocess import GRAY_LEVELS, RESIZES, Resize, pool_and_resize, to_gray_levels
from seer_runtime.system.ledger import Ledger
from tests.runtime.bundles import ACTIONS, CONTROLS, SPEC, small_actor, small_head, write
from tests.runtime.onnx_graphs import LATENT, constant_of, node_of, small_model


class NaivePolicy:
    """A simple policy: unchecked ONNX Runtime sessions, a list of frames, and slices."""

    def __init__(self, spec: PolicySpec) -> None:
        head = small_head() if spec.discrete else small_actor()
        self._sessions = [
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
            for model in (small_model(), head)
        ]
        self._discrete = spec.discrete
        self._frames: list[NDArray[np.uint8]] = []

    def reset(self) -> None:
        self._frames = []

    def act(self, frame: NDArray[np.uint8]) -> Any:
        self._frames.append(frame.copy())
        blank = [np.zeros((10, 12), np.uint8)] * 2
        stack = np.stack([*blank, *self._frames][-2:])[None, :, 1:9, 2:10]
        encoder, head = self._sessions
        latents = encoder.run(None, {INPUT: np.ascontiguousarray(stack)})[0]
        values = head.run(None, {OUTPUT: latents})[0][0]
        return int(np.argmax(values)) if self._discrete else values


@pytest.mark.parametrize("spec", [SPEC, CONTROLS], ids=lambda spec: spec.algo)
def test_policy_acts_like_the_naive_policy(spec: PolicySpec, tmp_path: Path) -> None:
    policy, naive = Policy.load(write(tmp_path / "p.seer", spec)), NaivePolicy(spec)
    rng = np.random.default_rng(1)
    actions = []
    for step in range(300):
        if step and rng.random() < 0.1:
            policy.reset()
            naive.reset()
        frame = rng.integers(0, 256, (10, 12), np.uint8)
        got = policy.act(frame)
        np.testing.assert_allclose(got, naive.act(frame), rtol=1e-5, atol=1e-6)
        actions.append(got)
        frame[...] = 0  # the caller may reuse its frame
    if spec.discrete:
        assert len(set(actions)) > 1
        assert all(type(action) is int for action in actions)
    else:
        assert len(np.unique(np.stack(actions), axis=0)) == 300  # each action has its own memory
        assert np.abs(np.stack(actions)).max() <= 1


def test_act_accepts_screens_of_any_size_and_color(tmp_path: Path) -> None:
    policy, same = (Policy.load(write(tmp_path / "p.seer", CONTROLS)) for _ in range(2))
    rng = np.random.default_rng(2)
    for shape in ((40, 60), (40, 60, 1), (40, 60, 3), (10, 12, 3), (10, 12, 1), (7, 9, 3)):
        screen = rng.integers(0, 256, shape, np.uint8)
        gray = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) if shape[2:] == (3,) else screen.reshape(shape[:2])
        frame = cv2.resize(gray, (12, 10), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(policy.act(screen), same.act(frame))
    arrays = (np.zeros((10, 12), np.float32), np.zeros((10, 12, 4), np.uint8), np.zeros(120, np.uint8))
    empty = (np.zeros(0, np.uint8), np.zeros((0, 0), np.uint8), np.zeros((10, 0, 3), np.uint8))
    others: tuple[Any, ...] = ([[0, 0], [0, 0]], None, "frame", np.uint8(0))
    for wrong in (*arrays, *empty, *others):
        with pytest.raises(ValueError, match="expected a screen"):
            policy.act(wrong)


@pytest.mark.parametrize("resize", RESIZES)
def test_a_policy_sees_frames_as_its_manifest_says(resize: Resize, tmp_path: Path) -> None:
    spec = dataclasses.replace(CONTROLS, resize=resize)
    policy, same = (Policy.load(write(tmp_path / "p.seer", spec)) for _ in range(2))
    assert policy.spec == spec
    interpolation = cv2.INTER_AREA if resize == "area" else cv2.INTER_LINEAR
    rng = np.random.default_rng(4)
    for _ in range(5):
        older, newer = rng.integers(0, 256, (2, 40, 60), np.uint8)
        one = cv2.resize(newer, (12, 10), interpolation=interpolation)
        np.testing.assert_array_equal(policy.act(newer), same.act(one))
        np.testing.assert_array_equal(
            policy.act((older, newer)), same.act(pool_and_resize(older, newer, (10, 12), resize))
        )
    with pytest.raises(ValueError, match="expected two screens of equal shape"):
        policy.act((older, newer[1:]))


@pytest.mark.parametrize("spec", [SPEC, CONTROLS], ids=["discrete", "continuous"])
@pytest.mark.parametrize("levels", GRAY_LEVELS)
def test_a_policy_reduces_frames_and_screens_to_the_gray_levels_of_training(
    levels: int, spec: PolicySpec, tmp_path: Path
) -> None:
    """A policy without levels acts alike if it is given reduced frames."""
    policy = Policy.load(write(tmp_path / "p.seer", dataclasses.replace(spec, gray_levels=levels)))
    plain, same = (Policy.load(write(tmp_path / "plain.seer", spec)) for _ in range(2))
    rng, differ = np.random.default_rng(5), 0
    for _ in range(20):
        frame = rng.integers(0, 256, (10, 12), np.uint8)
        before = frame.copy()
        np.testing.assert_array_equal(policy.act(frame), same.act(to_gray_levels(frame, levels)))
        np.testing.assert_array_equal(policy.values, same.values)
        np.testing.assert_array_equal(frame, before)  # it belongs to the caller
        plain.act(frame)
        differ += not np.array_equal(plain.values, policy.values)
        screen = rng.integers(0, 256, (40, 60, 3), np.uint8)
        shown = cv2.resize(cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY), (12, 10), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(policy.act(screen), same.act(to_gray_levels(shown, levels)))
        plain.act(screen)
    assert differ == 20


def test_check_head_returns_the_shapes_of_valid_heads() -> None:
    for model in (small_head(), small_actor()):
        assert check_head(model.SerializeToString(), max_batch=16) == HeadShapes(LATENT, ACTIONS)


def test_head_accepts_only_contiguous_float32_latents() -> None:
    head = OnnxHead(small_head().SerializeToString(), threads=1, ledger=Ledger({}))
    latents = np.ones(LATENT, np.float32)
    assert head(latents).shape == (ACTIONS,)
    for wrong in (latents[None], latents.astype(float), np.asfortranarray(latents), latents[:, :2]):
        with pytest.raises(ValueError, match="contiguous float32 latents"):
            head(wrong)


Edit = Callable[[ModelProto], object]


def _node(operator: str, **changes: Any) -> Edit:
    def edit(model: ModelProto) -> None:
        node = node_of(model, operator)
        for field, value in changes.items():
            if isinstance(value, list):
                del getattr(node, field)[:]
                getattr(node, field).extend(value)
            else:
                setattr(node, field, value)

    return edit


def _axis(operator: str, axis: int) -> Edit:
    return _node(operator, attribute=[helper.make_attribute("axis", axis)])


def _constant(name: str, array: NDArray[Any]) -> Edit:
    def edit(model: ModelProto) -> None:
        tensor = constant_of(model, name)
        tensor.raw_data = array.tobytes()
        del tensor.dims[:]
        tensor.dims.extend(array.shape)

    return edit


def _external(model: ModelProto) -> None:
    tensor = constant_of(model, "w0")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _branch(model: ModelProto) -> None:
    node_of(model, "Relu").attribute.append(helper.make_attribute("body", helper.make_graph([], "g", [], [])))


def _foreign(model: ModelProto) -> None:
    node_of(model, "Relu").domain = "com.evil"


def _wide(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4


@pytest.mark.parametrize(
    ("edit", "message"),
    {
        "an encoder's operator": (_node("Relu", op_type="Flatten"), "operator is not allowed in the graph of the head"),
        "an unknown operator": (_node("Relu", op_type="Identity"), "operator is not allowed in the graph of the head"),
        "a foreign domain": (_foreign, "unsupported field number 7"),
        "a subgraph": (_branch, "attribute has the unsupported field number 6"),
        "external data": (_external, "initializer has the unsupported field number"),
        "another network": (_constant("network", np.array(2, np.int64)), "must select one of 2 networks"),
        "a negative network": (_constant("network", np.array(-1, np.int64)), "must select one of 2 networks"),
        "several networks": (_constant("network", np.array([0, 1], np.int64)), "must select one of 2 networks"),
        "along another axis": (_axis("Gather", 2), "must select along axis 1"),
        "a softmax over actions": (_axis("Softmax", 1), "axis 2 of \\[B, actions, atoms\\]"),
        "a support that does not fit": (_constant("support", np.zeros(4, np.float32)), "do not fit"),
        "a support that is not finite": (
            _constant("support", np.full(5, np.nan, np.float32)),
            "contains NaN or infinity",
        ),
        "another width": (_wide, "the last node outputs values"),
        "the input read twice": (_node("Relu", input=[OUTPUT]), "Gather and no other node must read latents"),
        "no chain": (_node("Relu", input=["latent"]), "does not read hidden"),
    }.values(),
)
def test_invalid_head_is_rejected(edit: Edit, message: str) -> None:
    model = small_head()
    edit(model)
    with pytest.raises(GraphError, match=message):
        check_head(model.SerializeToString(), max_batch=1)


def test_layer_norm_that_does_not_fit_is_rejected() -> None:
    for edit, message in (
        (_axis("LayerNormalization", 0), "must normalise axis 1"),
        (_constant("scale", np.ones(2, np.float32)), "do not fit"),
    ):
        model = small_actor()
        edit(model)
        with pytest.raises(GraphError, match=message):
            check_head(model.SerializeToString(), max_batch=1)
