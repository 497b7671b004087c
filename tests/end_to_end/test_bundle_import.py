"""`train --from BUNDLE`: importing the encoder, the head and the replay rows of a bundle."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.config.presets import PRESETS
from seer_runtime import Policy, durable
from seer_runtime.policy.bundle import open_bundle
from tests.end_to_end.short_presets import CONTROL, PIXEL_GAME, RAINBOW, TASK, Run, command


def _tensors(run: Path, step: int | None = None) -> dict[str, Any]:
    """Return the agent and the replay of the newest checkpoint, or of that of `step`."""
    path = durable.newest_checkpoint(run / "checkpoints").path
    if step is not None:
        path = path.with_name(f"step_{step:010d}")
    return {name: durable.read_tensors(path / f"{name}.safetensors") for name in ("agent", "replay")}


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        one[part].keys() == other[part].keys()
        and all(np.array_equal(one[part][name], other[part][name]) for name in one[part])
        for part in one
    )


def test_rows_of_another_codec_are_not_imported(run: Run, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    words = ("--from", bundle, "--latent-codec", "float16", "--run-dir", target)
    status, out, _ = run("train", *PIXEL_GAME, *words)
    assert status == 0
    assert "training continues from the bundle's head, after 54 updates" in out
    assert "the bundle's replay rows are not imported: their codec is float32, and --latent-codec is float16" in out


def test_rows_with_another_number_of_views_are_not_imported(run: Run, tmp_path: Path) -> None:
    source, packed = tmp_path / "source", tmp_path / "p.seer"
    assert run("train", *CONTROL, "--augmentations", "2", "--run-dir", source)[0] == 0
    assert run("export", source, "-o", packed, "--with", "learner", "--with", "replay")[0] == 0
    for name, flags, note in (
        ("more", (), "the bundle's replay rows are not imported: they need --augmentations 2"),
        ("same", ("--augmentations", "2"), "replay rows are imported"),
    ):
        words = ("--from", packed, "--total-timesteps", "40", "--run-dir", tmp_path / name)
        status, out, error = run("train", *CONTROL, *flags, *words)
        assert status == 0, error
        assert note in out


@pytest.mark.parametrize(
    "codec", ["uint8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "uint4"))]
)
def test_imported_rows_set_the_codec_of_the_run(codec: str, run: Run, tmp_path: Path) -> None:
    source, packed = tmp_path / "source", tmp_path / "p.seer"
    assert run("train", *PIXEL_GAME, "--latent-codec", codec, "--run-dir", source)[0] == 0
    assert run("export", source, "-o", packed, "--with", "learner", "--with", "replay")[0] == 0
    words, names = ("train", *PIXEL_GAME, "--from", packed, "--total-timesteps", "40"), ("named", "unnamed")
    for name, flags in zip(names, (("--latent-codec", codec), ()), strict=True):
        status, out, _ = run(*words, *flags, "--run-dir", tmp_path / name)
        assert status == 0
        assert "replay rows are imported" in out
        assert (f"with their codec, {codec}" in out) == (name == "unnamed")
        assert json.loads((tmp_path / name / "config.json").read_text())["latent_codec"] == codec
    theirs, first = _tensors(source)["replay"], _tensors(tmp_path / "named", 0)["replay"]
    for part in ("rows", "reward", "codec.step", "codec.low"):
        held = theirs.get(part, np.zeros(0))
        np.testing.assert_array_equal(first.get(part, np.zeros(0))[: len(held)], held)
    assert ("codec.step" in first) == codec.startswith("uint")
    for name in names:  # with the quantization ranges of the checkpoint
        assert run("resume", tmp_path / name, "--total-timesteps", "60")[0] == 0
    assert _equal(*(_tensors(tmp_path / name) for name in names))


def test_a_run_that_starts_again_imports_what_it_was_told_to(run: Run, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    words = ("--from", bundle, "--take", "encoder", "--total-timesteps", "40", "--run-dir", target)
    assert run("train", *PIXEL_GAME, *words)[0] == 0
    shutil.rmtree(target / "checkpoints")  # as if it had been killed before the first one
    (target / "progress.csv").unlink()
    status, out, error = run("resume", target)
    assert status == 0
    assert "it has no checkpoint yet and starts at step 0" in out
    assert "(--take encoder)" in error
    assert "training continues from the bundle's head" not in error


@pytest.mark.parametrize("more", [("--take", "encoder"), ()])
def test_quantized_codecs_need_rows_to_calibrate_on(
    more: tuple[str, ...], run: Run, bundle: Path, frozen: Path, tmp_path: Path
) -> None:
    """The rows of the bundle are float32, and an encoder alone brings no rows."""
    source = frozen if more else bundle
    words = ("--from", source, *more, "--latent-codec", "uint8")
    status, out, error = run("train", *PIXEL_GAME, *words, "--run-dir", tmp_path / "run")
    assert (status, out, error.count("\n")) == (2, "", 1)
    wanted = f"--latent-codec uint8: needs rows to calibrate on, and {source} has no rows of that codec to import; "
    assert wanted + "leave it out to take the codec of its rows, if it has some, or choose" in error
    assert "float32, float16" in error
    assert run("plan", *PIXEL_GAME, *words)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_counters_of_its_codec_is_imported(run: Run, bundle: Path, tmp_path: Path) -> None:
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in opened.container.members}
    del about["replay"]["values"]["codec_counts"]
    durable.write_container(tmp_path / "p.seer", about, members)
    words = ("--from", tmp_path / "p.seer", "--total-timesteps", "5", "--run-dir", tmp_path / "run")
    status, out, _ = run("train", *PIXEL_GAME, *words)
    assert status == 0
    assert "replay rows are imported" in out


def test_training_continues_from_the_head_of_a_bundle(run: Run, bundle: Path, frozen: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    status, out, _ = run("train", *PIXEL_GAME, "--from", bundle, "--seed", "4", "--run-dir", target)
    assert status == 0
    assert "training continues from the bundle's head, after 54 updates" in out
    source, first, ended = _tensors(frozen), _tensors(target, 0), _tensors(target)
    assert (target / "encoder.onnx").read_bytes() == (frozen / "encoder.onnx").read_bytes()
    head = {name for name in source["agent"] if "encoder." not in name}
    assert first["agent"].keys() == head
    assert all(np.array_equal(first["agent"][name], source["agent"][name]) for name in head)
    assert not np.array_equal(ended["agent"]["head.hidden.weight"], source["agent"]["head.hidden.weight"])
    rows = len(source["replay"]["reward"])
    assert f"{rows:,} replay rows are imported" in out
    np.testing.assert_array_equal(first["replay"]["rows"][:rows], source["replay"]["rows"])
    np.testing.assert_array_equal(first["replay"]["reward"][:rows], source["replay"]["reward"])
    assert len(first["replay"]["reward"]) in (rows, rows + 1)  # an episode that was interrupted has its last frame
    summary = json.loads((target / "summary.json").read_text())
    assert summary["steps_per_second"]["pixel"] is None

    again = tmp_path / "again"
    assert run("train", *PIXEL_GAME, "--from", bundle, "--seed", "4", "--run-dir", again)[0] == 0
    assert _equal(_tensors(again), ended)
    for path in (target, again):
        assert run("resume", path, "--total-timesteps", "90")[0] == 0
    assert _equal(_tensors(again), _tensors(target))
    assert run("export", target, "-o", tmp_path / "p.seer", "--with", "learner")[0] == 0
    assert run("eval", tmp_path / "p.seer")[1].splitlines()[1] == run("eval", target)[1].splitlines()[1]
    assert Policy.load(tmp_path / "p.seer").spec == Policy.load(bundle).spec


def test_the_plan_counts_imported_rows_before_it_warns_of_a_run_without_an_update(run: Run, bundle: Path) -> None:
    words = ("plan", *PIXEL_GAME, "--from", bundle, "--total-timesteps", RAINBOW.learning_starts)
    assert "before its first update" not in run(*words)[1]
    assert "before its first update" in run(*words, "--take", "encoder")[1]


@pytest.mark.parametrize(("take", "delay"), [((), 0), (("--take", "encoder"), RAINBOW.learning_starts)])
def test_an_imported_head_with_its_rows_learns_from_the_first_step(
    run: Run, bundle: Path, tmp_path: Path, take: tuple[str, ...], delay: int
) -> None:
    steps, target = RAINBOW.learning_starts + 1, tmp_path / "run"
    words = ("--from", bundle, *take, "--total-timesteps", str(steps), "--pipeline", "off", "--run-dir", target)
    assert run("train", *PIXEL_GAME, *words)[0] == 0
    before, ended = (
        durable.newest_checkpoint(target / "checkpoints").path.with_name(f"step_{at:010d}") for at in (0, steps)
    )
    made = [json.loads((path / "state.json").read_text())["agent"]["updates"] for path in (before, ended)]
    assert made[1] - made[0] == steps - delay


def test_a_head_of_other_sizes_is_replaced_by_a_new_one(
    run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = PRESETS["pixelmatch-v0", "rainbow"]
    smaller = dataclasses.replace(preset, settings=dataclasses.replace(preset.settings, hidden=8))
    monkeypatch.setitem(PRESETS, ("pixelmatch-v0", "rainbow"), smaller)
    words = ("train", *PIXEL_GAME, "--from", bundle, "--total-timesteps", "30")
    reason = "the bundle's head has other sizes: head.hidden.weight is (32, 64), not (16, 64)"
    status, out, error = run(*words, "--take", "agent", "--run-dir", tmp_path / "run")
    assert (status, error.count("\n")) == (2, 1)
    assert reason in error
    assert not (tmp_path / "run").exists()
    status, out, _ = run(*words, "--run-dir", tmp_path / "run")
    assert status == 0
    assert f"new head for 3 actions ({reason})" in out


@pytest.mark.slow
def test_training_of_a_control_task_continues_from_a_bundle(run: Run, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    assert run("train", *CONTROL, "--total-timesteps", "40", "--run-dir", source)[0] == 0
    assert run("export", source, "-o", tmp_path / "p.seer", "--with", "learner")[0] == 0
    begin = ("train", "--env", TASK, "--from", tmp_path / "p.seer", "--total-timesteps", "20")
    assert run(*begin, "--run-dir", target)[0] == 0
    theirs, first = _tensors(source)["agent"], _tensors(target, 0)["agent"]
    assert {name for name in theirs if "encoder." not in name} == first.keys()
    assert all(np.array_equal(first[name], theirs[name]) for name in first)
    fresh = tmp_path / "fresh"
    status, out, _ = run(*begin, "--take", "encoder", "--seed", "9", "--run-dir", fresh)
    assert status == 0
    assert "new head for 1 continuous action (--take encoder)" in out
    first = _tensors(fresh, 0)["agent"]
    assert not np.array_equal(first["actor.policy.layers.0.weight"], theirs["actor.policy.layers.0.weight"])
    for name in ("actor.norm.weight", "critic.norm.bias"):  # imported with the encoder
        np.testing.assert_array_equal(first[name], theirs[name])


def test_an_imported_encoder_is_not_built_in_torch(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import seer_edge.networks.encoder

    def refuse(*unused: object, **more: object) -> None:
        raise AssertionError("a layer of an encoder")

    monkeypatch.setattr(seer_edge.networks.encoder.Affine, "__init__", refuse)
    command("train", *PIXEL_GAME, "--from", bundle, "--total-timesteps", "25", "--run-dir", tmp_path / "run")
    with pytest.raises(AssertionError, match="a layer of an encoder"):
        command("train", *PIXEL_GAME, "--total-timesteps", "25", "--run-dir", tmp_path / "other")
