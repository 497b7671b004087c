"""Bundles: written and read back, and every way in which one can be damaged or made by a stranger."""

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
from tests.runtime.bundles import SPEC, forged, members, record, write


def _refusal(path: Path, data: bytes | None = None) -> str:
    """The one line with which a bundle is refused."""
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        Policy.load(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert line.isprintable()
    return line


def test_a_bundle_is_read_back(tmp_path: Path) -> None:
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


def test_the_same_policy_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a").read_bytes(), write(tmp_path / "b").read_bytes()
    assert first == second
    assert write(tmp_path / "b", head=b"x").read_bytes() != first


def test_each_byte_that_is_changed_is_noticed(tmp_path: Path) -> None:
    """All of them: header, hash, manifest and both graphs."""
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


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_bytes_that_are_missing_or_added_are_noticed(sound: bytes, path: Path, data: st.DataObject) -> None:
    place, count = data.draw(st.integers(0, len(sound))), data.draw(st.integers(0, 300))
    extra = data.draw(st.binary(max_size=12))
    edited = sound[:place] + extra + sound[place + count :]
    if edited != sound:
        _refusal(path, edited)


def test_a_newer_format_is_named(tmp_path: Path) -> None:
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


def test_what_the_forgeries_are_made_from_is_sound(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(forged(_manifest(), BODY))
    Policy.load(tmp_path / "p")


@pytest.mark.parametrize(
    ("data", "message"),
    {
        "nothing": (b"", "not a bundle"),
        "another file": (b"PK\x03\x04" + bytes(60), "not a bundle"),
        "a magic alone": (b"SEEREDGE", "not a bundle"),
        "a header alone": (forged({})[:40], "a manifest of 2 bytes in 40"),
        "a length that lies": (forged({}, length=2**31), "a manifest of 2,147,483,648 bytes in 50"),
        "a manifest that is too large": (forged(b" " * (2**20 + 1)), "a manifest of 1,048,577 bytes"),
        "no JSON": (forged(b"{"), "not JSON"),
        "a key twice": (forged(b'{"about": {}, "about": {}, "members": []}'), "a key comes twice"),
        "NaN": (forged(b'{"about": {"x": NaN}, "members": []}'), "NaN is not a JSON value"),
        "nesting": (forged(b"[" * 100_000), "not JSON"),
        "a list": (forged([]), "does not say what it is about"),
        "no members": (forged({"about": {}}), "does not say what it is about"),
        "more than that": (forged({"about": {}, "members": [], "x": 1}), "does not say what it is about"),
        "a size that is text": (forged(_manifest(record(ENCODER, b"", size_bytes="0"))), "without name, size"),
        "a negative size": (forged(_manifest(record(ENCODER, b"", size_bytes=-1))), "without name, size"),
        "no hash": (forged(_manifest(record(ENCODER, b"", sha256="0"))), "without name, size"),
        "an unknown member": (forged(_manifest(record("../x", b""))), "'../x' that is not expected"),
        "a member twice": (forged(_manifest(RECORDS[0], RECORDS[0]), ENCODER_BYTES * 2), "comes twice"),
        "a size beyond the end": (forged(_manifest(record(ENCODER, b"", size_bytes=2**20))), "end at byte"),
        "a huge member": (forged(_manifest(record(ENCODER, b"", size_bytes=2**40))), "at most 67,108,864 are read"),
        "bytes behind": (forged(_manifest(), BODY + b"x"), "its members end at byte"),
        "another hash": (forged(_manifest(record(ENCODER, b"x", sha256="0" * 64)), b"x"), "SHA-256 differs"),
        "no head": (forged(_manifest(RECORDS[0]), ENCODER_BYTES), f"it holds no {HEAD}"),
        "graphs that are none": (
            forged(_manifest(record(ENCODER, b"x"), RECORDS[1]), b"x" + HEAD_BYTES),
            "model has a field that no encoder has, number 15",
        ),
        "graphs in each other's place": (
            forged(_manifest(record(ENCODER, HEAD_BYTES), record(HEAD, ENCODER_BYTES)), HEAD_BYTES + ENCODER_BYTES),
            "latents of type 1 is declared in place of observations",
        ),
        "no policy": (forged({"about": {}, "members": []}), "describes no policy: actions is missing"),
        "another resize": (
            forged(_manifest(observation={**SPEC.to_json()["observation"], "resize": "linear"}), BODY),
            "observation.resize is 'linear', not one of area, bilinear",
        ),
        "other bounds": (
            forged(_manifest(actions={"kind": "continuous", "size": 3, "low": -2.0, "high": 1.0}), BODY),
            "actions.low is -2.0, which this release does not do",
        ),
        "no action": (
            forged(_manifest(actions={"kind": "discrete", "count": 0}), BODY),
            "actions.count is 0, not a whole number from 1 to 65,536",
        ),
        "a list for an object": (forged(_manifest(observation=[1]), BODY), "observation is [1], not an object"),
        "an object for a list": (
            forged(_manifest(observation={**SPEC.to_json()["observation"], "crop_shape": {"x": 1}}), BODY),
            "observation.crop_shape is {'x': 1}, not a list of whole numbers from 1 to 1,024",
        ),
        "a name of two lines": (
            forged(_manifest(algo="rain\nbow"), BODY),
            "algo is 'rain\\nbow', not 1 to 200 printable",
        ),
        "other actions": (forged(_manifest(actions={"kind": "discrete", "count": 4}), BODY), "do not fit its manifest"),
    }.values(),
)
def test_what_a_stranger_writes_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    """Every hash is right, as far as there are any."""
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
    ],
    ids=str,
)
def test_observations_that_no_policy_has(change: dict[str, Any], tmp_path: Path) -> None:
    seen = {**SPEC.to_json()["observation"], **change}
    _refusal(tmp_path / "p", forged(_manifest(observation=seen), BODY))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
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


def test_a_link_to_a_bundle_is_one(tmp_path: Path) -> None:
    """As `policy.seer -> policy-3.seer` is on a board."""
    write(tmp_path / "p-3.seer")
    (tmp_path / "p.seer").symlink_to("p-3.seer")
    assert Policy.load(tmp_path / "p.seer").spec == SPEC


def test_a_member_that_changes_between_proof_and_use_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "p.seer")
    with open_container(path, MEMBER_BYTES_MAX) as container:
        member = container.members[HEAD]
        with path.open("r+b") as file:
            file.seek(member.start_bytes + 5)
            file.write(b"\xff")
        with pytest.raises(CorruptFileError, match="changed while it was read"):
            container.read(HEAD)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
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


def test_a_spec_says_itself(tmp_path: Path) -> None:
    for spec in (SPEC, PolicySpec("sac", (3, 100, 100), 3, (84, 84), discrete=False, actions=6)):
        assert PolicySpec.of(json.loads(json.dumps(spec.to_json()))) == spec
