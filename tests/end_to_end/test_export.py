"""`export`: bundles are reproducible, loadable and describe their origin."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.config.algorithms.rainbow import RainbowNetworks
from seer_edge.config.presets import RainbowSettings
from seer_runtime.policy.bundle import HEAD, MEMBER_BYTES_MAX, open_bundle
from tests.end_to_end.short_presets import GAME, PIXEL_GAME, Run


def test_the_same_run_gives_the_same_bytes(run: Run, frozen: Path, bundle: Path, tmp_path: Path) -> None:
    for extras in ((), ("--with", "replay", "--with", "learner")):
        for name in ("one", "two"):
            status, out, _ = run("export", frozen, "-o", tmp_path / name, *extras)
            assert status == 0
            assert f"{(tmp_path / name).stat().st_size:,} B" in out.splitlines()[-1]
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "two").read_bytes() == bundle.read_bytes()


def test_the_manifest_records_the_origin_of_the_policy(bundle: Path) -> None:
    with open_bundle(bundle) as opened:
        about = opened.about
        assert opened.read("encoder.onnx") == (bundle.parent / "frozen" / "encoder.onnx").read_bytes()
    assert about["environment"]["id"] == GAME
    assert about["observation"]["frame_shape"] == [42, 42]
    assert about["actions"] == {"kind": "discrete", "count": 3}
    provenance = about["provenance"]
    assert (provenance["seed"], provenance["timestep"], provenance["updates"]) == (0, 75, 54)
    assert provenance["versions"].keys() >= {"torch", "numpy", "onnxruntime"}
    assert str(bundle.parent) not in json.dumps(about)


def test_a_head_too_large_for_readers_is_refused_before_anything_is_written(
    run: Run, frozen: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An existing bundle is kept."""
    existing = tmp_path / "policy.seer"
    existing.write_bytes(bundle.read_bytes())
    monkeypatch.setitem(MEMBER_BYTES_MAX, HEAD, 1_000)
    for path in (existing, tmp_path / "new.seer"):
        status, out, error = run("export", frozen, "-o", path)
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert f"-o {path}: not written: head.onnx takes " in error
        assert "reads at most 1,000 B; train with another --encoder or a smaller `hidden`" in error
    assert existing.read_bytes() == bundle.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.seer"]


def test_export_refuses_a_bundle_that_cannot_be_loaded(
    run: Run, frozen: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has four actions and the manifest three, as an agent of a plugin could build it."""
    build = RainbowNetworks.policy_graph

    def wrong(networks: RainbowNetworks, settings: RainbowSettings, agent: Any) -> bytes:
        rows = 4 * networks.head.atoms
        wider = {
            name: np.resize(array, (rows, *array.shape[1:])) if name.startswith("head.advantage.") else array
            for name, array in agent.items()
        }
        return build(dataclasses.replace(networks, head=dataclasses.replace(networks.head, actions=4)), settings, wider)

    existing = tmp_path / "policy.seer"
    existing.write_bytes(bundle.read_bytes())
    monkeypatch.setattr(RainbowNetworks, "policy_graph", wrong)
    status, out, error = run("export", frozen, "-o", existing)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"-o {existing}: not written, because `act` cannot load it (" in error
    assert existing.read_bytes() == bundle.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.seer"]


def test_an_int8_encoder_is_built_measured_and_left_out_of_an_evaluation(
    run: Run, frozen: Path, bundle: Path, tmp_path: Path
) -> None:
    for name in ("one.seer", "two.seer"):
        status, out, _ = run("export", frozen, "-o", tmp_path / name, "--int8")
        assert status == 0
        assert re.search(r"int8 encoder: error [\d.]+% \(limit 3%\) on 256 stacks.*; the same action on [\d.]+%", out)
    one, two = tmp_path / "one.seer", tmp_path / "two.seer"
    assert one.read_bytes() == two.read_bytes()
    choice, *_ = run("act", one, "--episodes", "1")[1].splitlines()
    assert re.fullmatch(
        r"encoder (int8|float32): int8 [\d.]+ ms, float32 [\d.]+ ms, error [\d.]+% \(at most 3%\)", choice
    )
    assert run("eval", one)[1].splitlines()[:2] == run("eval", bundle)[1].splitlines()[:2]
    assert run("act", one, "--env", "Pong")[:2] == (2, "")
    assert run("act", one, "--record", tmp_path / "no" / "film.mp4")[:2] == (2, "")
    wide = tmp_path / "impala"
    assert run("train", *PIXEL_GAME, "--encoder", "impala", "--total-timesteps", "25", "--run-dir", wide)[0] == 0
    status, _, error = run("export", wide, "-o", tmp_path / "p.seer", "--int8")
    assert (status, error.count("\n")) == (2, 1)
    assert "--int8: encoder 'impala' is not a whole chain of convolutions with ReLU; leave it out" in error
    assert not (tmp_path / "p.seer").exists()
