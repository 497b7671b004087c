"""A bundle records the pictures of the environment, and `Policy.act` takes its observations."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import Policy
from seer_runtime.policy.bundle import PolicySpec, open_bundle
from seer_runtime.policy.pictures import Picture
from seer_runtime.policy.preprocess import Frame, to_frame
from tests.runtime.bundles import SPEC, write

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (30, 40, 3), np.uint8)
BINARY = RNG.integers(0, 2, (10, 12), np.uint8)

OBSERVATIONS: dict[str, tuple[Picture, Any, Frame]] = {
    "binary": (Picture((), (10, 12), "uint8", 0, 1), BINARY, BINARY * np.uint8(255)),
    "flags": (Picture((), (10, 12), "bool", 0, 1), BINARY.astype(bool), BINARY * np.uint8(255)),
    "floats": (Picture((), (30, 40, 3), "float32", 0, 1), np.float32(RGB / 255), RGB),
    "doubles": (Picture((), (30, 40, 3), "float32", 0, 1), RGB / 255, RGB),
    "channel-first": (Picture((), (3, 30, 40), "uint8"), RGB.transpose(2, 0, 1), RGB),
    "alpha": (Picture((), (30, 40, 4), "uint8"), np.dstack([RGB, RGB[:, :, 0]]), RGB),
    "dictionary": (Picture(("eye", 1), (30, 40, 3), "uint8"), {"eye": (None, RGB), "joints": None}, RGB),
    "tuple": (Picture((1,), (30, 40, 3), "uint8"), (None, RGB), RGB),
}


def policy(picture: Picture | None, folder: Path) -> Policy:
    return Policy.load(write(folder / "policy.seer", dataclasses.replace(SPEC, picture=picture)))


def values(policy: Policy, observation: Any) -> Any:
    policy.reset()
    policy.act(observation)
    return policy.values.copy()


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_act_accepts_the_observations_of_the_environment(kind: str, tmp_path: Path) -> None:
    picture, observation, screen = OBSERVATIONS[kind]
    expected = values(policy(None, tmp_path), screen)
    assert not np.array_equal(expected, values(policy(None, tmp_path), np.zeros((10, 12), np.uint8)))
    np.testing.assert_array_equal(values(policy(picture, tmp_path), observation), expected)


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_act_accepts_frames_screens_and_pairs(kind: str, tmp_path: Path) -> None:
    loaded, plain = policy(OBSERVATIONS[kind][0], tmp_path), policy(None, tmp_path)
    pair = (RGB[:20], RGB[10:])
    for other in (to_frame(RGB, (10, 12)), RGB[:20], RGB[:, :, 0], pair):
        np.testing.assert_array_equal(values(loaded, other), values(plain, other))


def test_an_array_that_could_be_both_is_an_observation(tmp_path: Path) -> None:
    loaded = policy(OBSERVATIONS["binary"][0], tmp_path)
    np.testing.assert_array_equal(values(loaded, BINARY), values(policy(None, tmp_path), BINARY * np.uint8(255)))
    np.testing.assert_array_equal(values(loaded, RGB), values(policy(None, tmp_path), RGB))


def test_other_observations_are_refused_with_the_expected_picture(tmp_path: Path) -> None:
    loaded = policy(OBSERVATIONS["dictionary"][0], tmp_path)
    expected = r"expected an observation with the picture uint8 \[30, 40, 3\] from 0 to 255 at 'eye/1', but the obs.*"
    with pytest.raises(ValueError, match=expected + r"has no 'eye'.*; expected a screen, .* got dict$"):
        loaded.act({"mouth": RGB})
    with pytest.raises(ValueError, match="not finite"):
        policy(OBSERVATIONS["floats"][0], tmp_path).act(np.full((30, 40, 3), np.nan, np.float32))


def test_pictures_survive_the_manifest_and_screens_are_not_recorded(tmp_path: Path) -> None:
    for picture, _, _ in OBSERVATIONS.values():
        spec = dataclasses.replace(SPEC, picture=picture)
        assert PolicySpec.of(json.loads(json.dumps(spec.to_json()))) == spec
    with open_bundle(write(tmp_path / "policy.seer", SPEC)) as bundle:
        assert "picture" not in bundle.about["observation"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "eye"}, "observation.picture.path is 'eye', not a list of keys"),
        ({"path": [0.5]}, "observation.picture.path is "),
        ({"path": ["x"] * 99}, "observation.picture.path is "),
        ({"shape": [30]}, r"observation.picture: the shape \[30\] is not that of a picture"),
        ({"dtype": "O"}, "observation.picture.dtype is 'O', not one of bool, int8"),
        ({"low": 255}, "observation.picture: the bounds 255 and 255 are no range of pixels"),
        ({"high": float("inf")}, "observation.picture.high is inf, not a number"),
        ({"gamma": 2}, "observation.picture has the key 'gamma', which this release does not know"),
    ],
)
def test_an_invalid_manifest_is_refused(change: dict[str, Any], message: str) -> None:
    about = dataclasses.replace(SPEC, picture=Picture(("eye",), (30, 40, 3), "uint8")).to_json()
    about["observation"]["picture"] |= change
    with pytest.raises(ValueError, match=message):
        PolicySpec.of(about)
