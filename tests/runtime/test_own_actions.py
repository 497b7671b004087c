"""A bundle records the environment's own actions, and `Policy.act` returns them."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seer_runtime import Policy
from seer_runtime.policy.actions import Bounded, Numbered, OwnActions
from seer_runtime.policy.bundle import PolicySpec, open_bundle
from tests.runtime.bundles import ACTIONS, CONTROLS, SPEC, write

BOX = Bounded((3,), "float32", (-30.0, 0.0, 0.1), (30.0, 5.0, 0.1))
SQUARE = Bounded((1, 3), "float64", (0.0, -1.0, 1.0), (1.0, 1.0, 1e6))


def _frames(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (count, 10, 12), np.uint8)


@pytest.mark.parametrize("start", [-1, 0, 7, 2**40])
def test_act_returns_numbers_of_the_environment(start: int, tmp_path: Path) -> None:
    path = write(tmp_path / "p.seer", dataclasses.replace(SPEC, own_actions=Numbered(start)))
    policy, same = Policy.load(path), Policy.load(path)
    taken = [policy.act(frame) for frame in _frames(40)]
    assert taken == [start + same.act_normalized(frame) for frame in _frames(40)]
    assert all(type(action) is int and start <= action < start + ACTIONS for action in taken)


@pytest.mark.parametrize("own", [BOX, SQUARE], ids=lambda own: own.dtype)
def test_act_returns_arrays_in_the_units_of_the_environment(own: Bounded, tmp_path: Path) -> None:
    path = write(tmp_path / "p.seer", dataclasses.replace(CONTROLS, own_actions=own))
    policy, same = Policy.load(path), Policy.load(path)
    low, high = (np.array(bound, own.dtype).reshape(own.shape) for bound in (own.low, own.high))
    for frame in _frames(20):
        action, normalized = policy.act(frame), same.act_normalized(frame)
        assert isinstance(action, np.ndarray)
        assert isinstance(normalized, np.ndarray)
        assert (action.shape, action.dtype) == (own.shape, np.dtype(own.dtype))
        assert (low <= action).all()
        assert (action <= high).all()
        assert (normalized.shape, normalized.dtype) == ((3,), np.float32)
        expected = low + (normalized.reshape(own.shape).astype(float) + 1) / 2 * (high - low)
        np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", [SPEC, CONTROLS], ids=lambda spec: spec.algo)
def test_a_bundle_without_own_actions_acts_as_before(spec: PolicySpec, tmp_path: Path) -> None:
    path = write(tmp_path / "p.seer", spec)
    with open_bundle(path) as bundle:
        assert bundle.about["actions"].keys() & {"start", "own"} == set()
        assert bundle.spec.own_actions is None
    policy, same = Policy.load(path), Policy.load(path)
    for frame in _frames(10):
        np.testing.assert_array_equal(policy.act(frame), same.act_normalized(frame))


@pytest.mark.parametrize(
    "spec",
    [
        dataclasses.replace(SPEC, own_actions=Numbered(-(2**62))),
        dataclasses.replace(CONTROLS, own_actions=BOX),
        dataclasses.replace(CONTROLS, own_actions=SQUARE),
        dataclasses.replace(CONTROLS, actions=1, own_actions=Bounded((), "float16", (-1.0,), (0.5,))),
    ],
)
def test_own_actions_survive_the_manifest(spec: PolicySpec) -> None:
    assert PolicySpec.of(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (SPEC, {"start": 0.5}, "actions.start is 0.5, not an integer"),
        (SPEC, {"start": 2**63}, "the first action is 9223372036854775808, not from"),
        (SPEC, BOX.to_json(), "does not fit those of the policy"),
        (CONTROLS, {"start": 1}, "does not fit those of the policy"),
        (
            CONTROLS,
            {"own": {**BOX.to_json()["own"], "low": [0.0, 0.0]}},
            r"actions.own.low is \[0.0, 0.0\], not a list",
        ),
        (CONTROLS, {"own": {**BOX.to_json()["own"], "high": [-31, 0, 1]}}, "a low is above its high"),
        (
            CONTROLS,
            {"own": {**BOX.to_json()["own"], "high": [float("inf")] * 3}},
            "actions.own.high is .* finite numbers",
        ),
        (
            CONTROLS,
            {"own": {**BOX.to_json()["own"], "low": [-(10**400), 0, 0]}},
            "actions.own.low is .* finite numbers",
        ),
        (CONTROLS, {"own": {**BOX.to_json()["own"], "shape": [3, 3]}}, r"bounds of float32 \[3, 3\]"),
        (CONTROLS, {"own": {**BOX.to_json()["own"], "dtype": "int8"}}, "actions.own.dtype is 'int8', not one of"),
        (CONTROLS, {"own": {**BOX.to_json()["own"], "x": 1}}, "actions.own has the key 'x'"),
    ],
)
def test_invalid_own_actions_are_rejected(spec: PolicySpec, change: dict[str, Any], message: str) -> None:
    about = spec.to_json()
    with pytest.raises(ValueError, match=message):
        PolicySpec.of({**about, "actions": {**about["actions"], **change}})


@pytest.mark.parametrize(
    ("own", "plain"),
    [
        (Numbered(0), True),
        (Numbered(1), False),
        (Bounded((2,), "float32", (-1.0, -1.0), (1.0, 1.0)), True),
        (Bounded((2,), "float64", (-1.0, -1.0), (1.0, 1.0)), False),
        (Bounded((1, 2), "float32", (-1.0, -1.0), (1.0, 1.0)), False),
        (Bounded((2,), "float32", (-1.0, -1.0), (1.0, 2.0)), False),
    ],
)
def test_plain_actions_are_those_of_the_agent(own: OwnActions, plain: bool) -> None:
    assert own.plain == plain
