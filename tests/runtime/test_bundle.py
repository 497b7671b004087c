"""Tests of bundles: writing and reading, detection of damage, and rejection of untrusted input."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_runtime import Policy
from seer_runtime.durable import CorruptFileError, tensor_pieces, write_container
from seer_runtime.durable.container import open_container
from seer_runtime.policy.bundle import ENCODER, HEAD, LEARNER, MEMBER_BYTES_MAX, PolicySpec, open_bundle
from seer_runtime.policy.preprocess import GRAY_LEVELS
from tests.runtime.bundles import SPEC, forged, members, record, write


def _refusal(path: Path, data: bytes | None = None) -> str:
    """Return the error message for an invalid bundle. Fail unless it is one line."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        Policy.load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    return line


def test_bundle_reads_back(tmp_path: Path) -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.arange(3, dtype=np.int64)}
    about = {**SPEC.to_json(), "more": {"x": [1, None]}}
    path = tmp_path / "p.seer"
    write_container(path, about, {**members(), LEARNER: list(tensor_pieces(LEARNER, arrays))})
    with open_bundle(path) as bundle:
        assert (bundle.spec, bundle.about, bundle.path) == (SPEC, about, path)
        assert {name for name in MEMBER_BYTES_MAX if bundle.holds(name)} == {*members(), LEARNER}
        assert {name: [bundle.read(name)] for name in members()} == members()
        tensors = bundle.container.tensors(LEARNER)
        for name, array in arrays.items():
            out = np.zeros_like(array)
            tensors.read_into(name, out)
            np.testing.assert_array_equal(out, array)


def test_equal_policies_give_equal_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a").read_bytes(), write(tmp_path / "b").read_bytes()
    assert first == second
    assert write(tmp_path / "b", head=b"x").read_bytes() != first


def test_change_of_any_byte_is_detected(tmp_path: Path) -> None:
    """The bytes cover the header, the hash, the manifest and both graphs."""
    sound = write(tmp_path / "p.seer").read_bytes()
    damaged = tmp_path / "damaged.seer"
    damaged.write_bytes(sound)
    Policy.load(damaged)
    descriptor = os.open(damaged, os.O_WRONLY)
    try:
        for place, byte in enumerate(sound):
            os.pwrite(descriptor, bytes([byte ^ (1 << place % 8)]), place)
            with pytest.raises(CorruptFileError), open_bundle(damaged):
                pass
            os.pwrite(descriptor, bytes([byte]), place)
    finally:
        os.close(descriptor)
    Policy.load(damaged)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bundle") / "edited.seer"


@pytest.fixture(scope="module")
def sound(path: Path) -> bytes:
    return write(path).read_bytes()


@settings(max_examples=200)
@given(data=st.data())
def test_missing_and_added_bytes_are_detected(sound: bytes, path: Path, data: st.DataObject) -> None:
    place, count = data.draw(st.integers(0, len(sound))), data.draw(st.integers(0, 300))
    extra = data.draw(st.binary(max_size=12))
    edited = sound[:place] + extra + sound[place + count :]
    if edited != sound:
        _refusal(path, edited)


def test_error_names_a_newer_format_version(tmp_path: Path) -> None:
    for version in (0, 2, 2**32 - 1):
        data = forged({"about": SPEC.to_json(), "members": []}, version=version)
        line = _refusal(tmp_path / "p", data)
        assert f"format version {version}, this release reads 1" in line
        assert (f"a newer seer-edge reads {version}" in line) == (version > 1)


ENCODER_BYTES, HEAD_BYTES = members()[ENCODER][0], members()[HEAD][0]
BODY = ENCODER_BYTES + HEAD_BYTES
RECORDS = [record(ENCODER, ENCODER_BYTES), record(HEAD, HEAD_BYTES)]


def _manifest(*records: Any, **about: Any) -> dict[str, Any]:
    return {"about": {**SPEC.to_json(), **about}, "members": list(records or RECORDS)}


def test_forged_bundle_without_a_change_is_valid(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(forged(_manifest(), BODY))
    Policy.load(tmp_path / "p")


@pytest.mark.parametrize(
    ("data", "message"),
    {
        "nothing": (b"", "not a bundle"),
        "another file": (b"PK\x03\x04" + bytes(60), "not a bundle"),
        "a magic alone": (b"SEEREDGE", "not a bundle"),
        "a header alone": (forged({})[:40], "invalid manifest size of 2 bytes in a file of 40"),
        "a false length": (
            forged({}, length=2**31),
            "invalid manifest size of 2,147,483,648 bytes in a file of 50",
        ),
        "a manifest that is too large": (forged(b" " * (2**20 + 1)), "invalid manifest size of 1,048,577 bytes"),
        "no JSON": (forged(b"{"), "not JSON"),
        "a key twice": (forged(b'{"about": {}, "about": {}, "members": []}'), "a key occurs twice"),
        "NaN": (forged(b'{"about": {"x": NaN}, "members": []}'), "NaN is not a JSON value"),
        "nesting": (forged(b"[" * 100_000), "not JSON"),
        "a list": (forged([]), "must have exactly the keys 'about' and 'members'"),
        "no members": (forged({"about": {}}), "must have exactly the keys 'about' and 'members'"),
        "another key": (
            forged({"about": {}, "members": [], "x": 1}),
            "must have exactly the keys 'about' and 'members'",
        ),
        "a size that is text": (forged(_manifest(record(ENCODER, b"", size_bytes="0"))), "without a valid name, size"),
        "a negative size": (forged(_manifest(record(ENCODER, b"", size_bytes=-1))), "without a valid name, size"),
        "no hash": (forged(_manifest(record(ENCODER, b"", sha256="0"))), "without a valid name, size"),
        "an unknown member": (forged(_manifest(record("../x", b""))), "holds '../x', so it is another kind of file"),
        "a member twice": (forged(_manifest(RECORDS[0], RECORDS[0]), ENCODER_BYTES * 2), "occurs twice"),
        "a size beyond the end": (forged(_manifest(record(ENCODER, b"", size_bytes=2**20))), "end at byte"),
        "a huge member": (forged(_manifest(record(ENCODER, b"", size_bytes=2**40))), "the limit is 67,108,864"),
        "bytes after the members": (forged(_manifest(), BODY + b"x"), "the members end at byte"),
        "another hash": (forged(_manifest(record(ENCODER, b"x", sha256="0" * 64)), b"x"), "SHA-256 differs"),
        "no head": (forged(_manifest(RECORDS[0]), ENCODER_BYTES), f"contains no {HEAD}"),
        "invalid graphs": (
            forged(_manifest(record(ENCODER, b"x"), RECORDS[1]), b"x" + HEAD_BYTES),
            "model has the unsupported field number 15",
        ),
        "graphs swapped": (
            forged(_manifest(record(ENCODER, HEAD_BYTES), record(HEAD, ENCODER_BYTES)), HEAD_BYTES + ENCODER_BYTES),
            "the graph declares latents of type 1 instead of observations of type 2",
        ),
        "no policy": (forged({"about": {}, "members": []}), "describes no valid policy: actions is missing"),
        "another resize": (
            forged(_manifest(observation={**SPEC.to_json()["observation"], "resize": "linear"}), BODY),
            "observation.resize is 'linear', not one of area, bilinear",
        ),
        "other bounds": (
            forged(_manifest(actions={"kind": "continuous", "size": 3, "low": -2.0, "high": 1.0}), BODY),
            "actions.low is -2.0, which this release does not support",
        ),
        "no action": (
            forged(_manifest(actions={"kind": "discrete", "count": 0}), BODY),
            "actions.count is 0, not an integer from 1 to 65,536",
        ),
        "a list for an object": (forged(_manifest(observation=[1]), BODY), "observation is [1], not an object"),
        "an object for a list": (
            forged(_manifest(observation={**SPEC.to_json()["observation"], "crop_shape": {"x": 1}}), BODY),
            "observation.crop_shape is {'x': 1}, not a list of integers from 1 to 1,024",
        ),
        "a name with a line break": (
            forged(_manifest(algo="rain\nbow"), BODY),
            "algo is 'rain\\nbow', not 1 to 200 printable",
        ),
        "other actions": (
            forged(_manifest(actions={"kind": "discrete", "count": 4}), BODY),
            "does not match the manifest",
        ),
    }.values(),
)
def test_invalid_bundle_with_valid_hashes_is_rejected(data: bytes, message: str, tmp_path: Path) -> None:
    """Every hash is valid, in the cases that have one."""
    assert message in _refusal(tmp_path / "p", data)


@pytest.mark.parametrize(
    "change",
    [
        {"frame_shape": [10]},
        {"frame_shape": [4, 10, 12]},
        {"frame_shape": [2048, 12]},
        {"frame_shape": [True, 12]},
        {"frame_shape": "ab"},
        {"frame_shape": {}},
        {"stack": 0},
        {"stack": 10**6},
        {"stack": 3},
        {"crop_shape": [8, 13]},
        {"crop_shape": [8]},
        {"crop_shape": [7, 8]},
        {"colors": "rgb"},
        {"crop": "random"},
        {"gray_levels": 8},
        {"gray_levels": 256},
        {"gray_levels": None},
        {"gray_levels": "32"},
        {"gray_levels": 32.0},
        {"gray_levels": True},
    ],
    ids=str,
)
def test_invalid_observation_fields_are_rejected(change: dict[str, Any], tmp_path: Path) -> None:
    seen = {**SPEC.to_json()["observation"], **change}
    _refusal(tmp_path / "p", forged(_manifest(observation=seen), BODY))


def test_gray_levels_are_in_the_manifest_only_where_they_are_set(tmp_path: Path) -> None:
    """Bundles without them keep their bytes, and earlier releases read them."""
    assert "gray_levels" not in SPEC.to_json()["observation"]
    for levels in (None, *GRAY_LEVELS):
        spec = dataclasses.replace(SPEC, gray_levels=levels)
        assert PolicySpec.of(spec.to_json()) == spec
        assert Policy.load(write(tmp_path / "p.seer", spec)).spec == spec
    seen = {**SPEC.to_json()["observation"], "gray_levels": 8}
    message = _refusal(tmp_path / "p", forged(_manifest(observation=seen), BODY))
    assert "observation.gray_levels is 8, not one of 16, 32, 64" in message


def test_only_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "to_itself").symlink_to("to_itself")
    for name in ("folder", "pipe", "link"):
        _refusal(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Policy.load(tmp_path / "nowhere")
    with pytest.raises(OSError, match="symbolic links"):
        Policy.load(tmp_path / "to_itself")


def test_link_to_a_bundle_is_followed(tmp_path: Path) -> None:
    """On a board, `policy.seer` may be a link to the current version."""
    write(tmp_path / "p-3.seer")
    (tmp_path / "p.seer").symlink_to("p-3.seer")
    assert Policy.load(tmp_path / "p.seer").spec == SPEC


def test_change_of_a_member_after_the_check_is_detected(tmp_path: Path) -> None:
    path = write(tmp_path / "p.seer")
    with open_container(path, MEMBER_BYTES_MAX) as container:
        member = container.members[HEAD]
        with path.open("r+b") as file:
            file.seek(member.start_bytes + 5)
            file.write(b"\xff")
        with pytest.raises(CorruptFileError, match="changed while it was read"):
            container.read(HEAD)


def test_failed_write_leaves_the_old_bundle(tmp_path: Path) -> None:
    path = write(tmp_path / "p.seer")
    before = path.read_bytes()
    failing: list[Callable[[], object]] = [
        lambda: write_container(path, {"x": float("nan")}, members()),
        lambda: write_container(path, {"x": "y" * 2**21}, members()),
    ]
    for write_again in failing:
        with pytest.raises(ValueError):
            write_again()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.seer"]


def test_policy_spec_reads_its_own_json(tmp_path: Path) -> None:
    for spec in (SPEC, PolicySpec("sac", (3, 100, 100), 3, (84, 84), discrete=False, actions=6)):
        assert PolicySpec.of(json.loads(json.dumps(spec.to_json()))) == spec
