"""Bad input of commands that read or write bundles gives one line and writes nothing."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from seer_edge.runs import demos
from seer_runtime import durable
from seer_runtime.durable.container import CONTAINER_VERSION, member_names, open_container, write_container
from seer_runtime.policy.bundle import MEMBER_BYTES_MAX, open_bundle
from tests.end_to_end.short_presets import CONTROL, GAME, PIXEL_GAME, TASK, Run
from tests.runtime.bundles import forged


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("act", "{bundle}", "--env", "Pong"), ["--env Pong", "6 actions", "3 actions"]),
        (("act", "{bundle}", "--env", "Alein"), ["--env Alein", "Alien"]),
        (("act", "{bundle}", "--env", ""), ["--env", "'' is empty", "name an environment"]),
        (
            ("act", "{bundle}", "--env", "CartPole-v1"),
            ["--env CartPole-v1: observes Box(", "not images", f"like {GAME}"],
        ),
        (
            ("act", "{bundle}", "--env", TASK),
            [f"--env {TASK}: has no frames of 42x42", "which this policy needs", GAME],
        ),
        (("act", "{bundle}", "--epsilon", "1.5"), ["--epsilon", "'1.5'", "0 to 1"]),
        (("act", "{bundle}", "--episodes", "0"), ["--episodes", "'0'", "at least 1"]),
        (("act", "{bundle}", "--record", "x.gif"), ["--record x.gif", ".mp4"]),
        (("act", "{tmp}/nowhere"), ["nowhere: cannot be read", "export"]),
        (("act", "{tmp}/pipe.mp4"), ["pipe.mp4: not a regular file; give a regular file"]),
        (("eval", "{tmp}/pipe.mp4"), ["pipe.mp4: not a regular file; give a regular file"]),
        (("train", *PIXEL_GAME, "--from", "{tmp}/pipe.mp4"), ["pipe.mp4: not a regular file; give a regular file"]),
        (("eval", "x" * 300), ["cannot be read"]),
        (("train", *PIXEL_GAME, "--from", "x" * 300), ["--from", "no such file or folder"]),
        (("act", "{run}"), ["not a regular file", "seer-edge export {run} -o policy.seer"]),
        (("act", "{tmp}"), ["not a regular file", "give a bundle"]),
        (("eval", "{tmp}"), ["not a run's folder", "of a run, or a bundle"]),
        (("resume", "{bundle}"), ["not a run's folder; bundles are for", "train --from"]),
        (("act", "{newer}"), ["newer.seer: format version 2", "a newer seer-edge reads 2"]),
        (("eval", "{newer}"), ["newer.seer: format version 2", "a newer seer-edge reads 2"]),
        (("train", *PIXEL_GAME, "--from", "{newer}"), ["--from", "newer.seer: format version 2", "a newer seer-edge"]),
        (("act", "{run}/config.json"), ["config.json: not a bundle", "export"]),
        (("act", "{damaged}"), ["damaged.seer", "SHA-256 differs", "export it again"]),
        (("eval", "{damaged}"), ["damaged.seer", "SHA-256 differs", "export it again"]),
        (("eval", "{bundle}", "--device", "cuda"), ["--device cuda", "leave it out"]),
        (("export", "{run}"), ["-o"]),
        (("export", "{run}", "-o", "{tmp}/no/p.seer"), ["-o", "no/p.seer: cannot be written"]),
        (("export", "{run}", "-o", "{tmp}/p", "--with", "encoder"), ["--with", "'encoder'", "learner, replay"]),
        (("export", "{run}", "-o", "{tmp}/p", "--with", "replay"), ["--with replay", "give both or none"]),
        (("export", "{tmp}", "-o", "{tmp}/p"), ["not a run's folder"]),
        (
            ("train", *PIXEL_GAME, "--from", "{damaged}"),
            ["--from", "damaged.seer", "SHA-256 differs", "export it again"],
        ),
        (("train", *PIXEL_GAME, "--from", "{tmp}/nowhere"), ["--from", "nowhere", "no such file or folder"]),
        (("train", *PIXEL_GAME, "--from", "{run}"), ["--from", "also give --take encoder"]),
        (("plan", *PIXEL_GAME, "--from", "{bundle}", "--freeze-layers", "1"), ["--freeze-layers 1", "frozen whole"]),
        (("act", "{bundle}", "--threads", "9999"), ["--threads", "9999", "from 1 to 256"]),
        (("eval", "{bundle}", "--threads", "9999"), ["--threads", "9999", "from 1 to 256"]),
        (("act", "{bundle}", "--seed", "-1"), ["--seed", "-1", "from 0 to 4294967295"]),
        (("eval", "{bundle}", "--seed", "-1"), ["--seed", "-1", "from 0 to 4294967295"]),
        (("act", "{bundle}", "--record", "{tmp}/folder.mp4"), ["--record", "folder.mp4", "name another"]),
        (("export", "{run}", "-o", "{run}/config.json"), ["-o", "config.json", "inside the run's folder"]),
        (("export", "{run}", "-o", "-"), ["-o", "'-'", "name a file"]),
        (("act", "{bundle}", "--record", "-"), ["--record", "'-'", "name a file"]),
        (("export", "{run}", "-o", "{tmp}/folder.mp4"), ["-o", "folder.mp4", "not a regular file; name another"]),
        (("export", "{run}", "-o", "{tmp}/pipe.mp4"), ["-o", "pipe.mp4", "not a regular file; name another"]),
        (("act", "{bundle}", "--record", "{tmp}/pipe.mp4"), ["--record", "pipe.mp4", "not a regular file"]),
        (("export", "{run}", "-o", "{tmp}/link.mp4"), ["-o", "link.mp4", "a symbolic link; name the file itself"]),
        (("act", "{bundle}", "--record", "{tmp}/link.mp4"), ["--record", "link.mp4: is a symbolic link"]),
        (("export", "{run}", "-o", "{tmp}/" + "x" * 300), ["-o", "cannot be written"]),
        (("export", "{run}", "-o", "{tmp}/notes.txt/p.seer"), ["-o", "notes.txt/p.seer: cannot be written"]),
        (("export", "{run}", "-o", "{tmp}/notes.txt"), ["-o", "notes.txt", "is not a bundle; name another"]),
        (("export", "{run}", "-o", "{tmp}/demos.seer"), ["-o", "demos.seer", "is not a bundle; name another"]),
        (("train", *PIXEL_GAME, "--from", "{bundle}", "--take", "head"), ["--take", "'head'", "agent, encoder"]),
        (("train", *PIXEL_GAME, "--from", "{bundle}", "--freeze-at", "9"), ["--freeze-at 9", "leave it out"]),
        (("train", "--env", "Pong", "--from", "{bundle}", "--take", "agent"), ["--take agent", "3 actions"]),
        (("train", *CONTROL, "--from", "{bundle}"), ["--from", "gray frames", "--env cartpole-swingup does not show"]),
        (("train", "--env", TASK, "--from", "{bundle}"), ["--from", "gray frames of 42x42", f"--env {TASK} does not"]),
    ],
)
def test_bad_input_is_reported_in_one_line_and_writes_nothing(
    words: tuple[str, ...], parts: list[str], run: Run, bundle: Path, frozen: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.seer"
    shutil.copyfile(bundle, damaged)
    with damaged.open("r+b") as file:
        file.seek(bundle.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    (tmp_path / "newer.seer").write_bytes(forged({"about": {}, "members": []}, version=CONTAINER_VERSION + 1))
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    write_container(tmp_path / "demos.seer", {}, {demos.MEMBER: [b"frames"]})
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("damaged.seer")
    before = _entries(tmp_path)
    names = {"bundle": bundle, "run": frozen, "tmp": tmp_path, "damaged": damaged, "newer": tmp_path / "newer.seer"}
    status, out, error = run(*(word.format(**names) for word in words))
    assert (status, out, error.count("\n")) == (2, "", 1)
    for part in parts:
        assert part.format(**names) in error
    assert _entries(tmp_path) == before


def _entries(folder: Path) -> set[tuple[str, int, int]]:
    return {(path.name, path.lstat().st_mode, path.lstat().st_ino) for path in folder.iterdir()}


REAL_TIME = {"hz": 30, "action_limit": None, "slew_rate": None, "rest_after_seconds": 1.0}
NOT_OF_ACT = ("--resolution", "--render-observations", "--color", "--protocol")


@pytest.mark.parametrize("env", ["CartPole-v1", TASK, "Alien"])
@pytest.mark.parametrize("options", [{}, {"render": True}, {"color": "rgb"}, {"protocol": "machado"}], ids=str)
def test_act_suggests_no_flag_that_it_does_not_have(
    options: dict[str, Any], env: str, run: Run, bundle: Path, tmp_path: Path
) -> None:
    """The hint does not depend on the frames of training."""
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in ("encoder.onnx", "head.onnx")}
    about["environment"]["options"] |= options
    other = tmp_path / "other.seer"
    durable.write_container(other, about, members)
    status, out, error = run("act", other, "--env", env)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"--env {env}: " in error
    assert not any(flag in error for flag in NOT_OF_ACT)


@pytest.mark.parametrize(
    ("part", "changes", "field"),
    [
        ("environment", {"id": 7}, "environment.id is 7, not"),
        ("environment", {"id": "a\nb"}, "environment.id is"),
        ("environment", {"options": {"protocol": "x", "resolution": None}}, "environment.options.protocol"),
        ("environment", {"options": {"more": 1}}, "environment.options has the key 'more'"),
        ("environment", {"options": {"resolution": 10**9}}, "environment.options.resolution is 1000000000, not"),
        ("environment", {"options": {"action_repeat": 0}}, "environment.options.action_repeat is 0, not"),
        ("environment", {"options": []}, "environment.options is [], not an object"),
        ("environment", {"options": [[]]}, "environment.options is [[]], not an object"),
        ("evaluation", {"epsilon": 2}, "evaluation.epsilon is 2, not a number from 0 to 1"),
        ("evaluation", {"epsilon": True}, "evaluation.epsilon is True"),
        ("evaluation", {"episodes": 0}, "evaluation.episodes is 0, not"),
        ("evaluation", {"episodes": 10**9}, "evaluation.episodes is 1000000000, not"),
        ("evaluation", {"episodes": "ten"}, "evaluation.episodes is 'ten', not"),
        ("provenance", {"seed": -1}, "provenance.seed is -1, not"),
        ("provenance", {"timestep": None}, "provenance.timestep is None, not"),
        ("evaluation", [], "evaluation is [], not an object"),
        ("provenance", None, "provenance is None, not an object"),
        ("algo", "ppo", "algo is 'ppo', not one of rainbow"),
        ("real_time", None, "real_time is None, not an object"),
        ("real_time", {"hz": 30}, "real_time.action_limit is missing"),
        ("real_time", {**REAL_TIME, "more": 1}, "real_time has the key 'more'"),
        ("real_time", {**REAL_TIME, "hz": 1e-310}, "real_time.hz is 1e-310, not a number from 0.001 to 1000"),
        ("real_time", {**REAL_TIME, "hz": "fast"}, "real_time.hz is 'fast', not a number from 0.001 to 1000"),
        ("real_time", {**REAL_TIME, "action_limit": [1]}, "real_time.action_limit is [1], not a list of 2"),
        ("real_time", {**REAL_TIME, "action_limit": [0.5, -0.5]}, "real_time: --action-limit 0.5,-0.5: give LOW,HIGH"),
        ("real_time", {**REAL_TIME, "slew_rate": 1}, "real_time.slew_rate is 1, not a list of finite numbers"),
        (
            "real_time",
            {**REAL_TIME, "slew_rate": [1e39]},
            "real_time: --slew-rate 1e+39: give a number above 0 and up to",
        ),
        ("real_time", {**REAL_TIME, "slew_rate": []}, "real_time: --slew-rate : give a number above 0"),
        ("real_time", {**REAL_TIME, "rest_after_seconds": 0}, "real_time: --rest-after 0s: give a time above 0s"),
        ("real_time", {**REAL_TIME, "rest_after_seconds": 1e308}, "real_time.rest_after_seconds is 1e+308, not a"),
    ],
)
def test_an_invalid_manifest_with_valid_hashes_is_refused(
    part: str, changes: Any, field: str, run: Run, bundle: Path, tmp_path: Path
) -> None:
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in ("encoder.onnx", "head.onnx")}
    forged = tmp_path / "forged.seer"
    changed = {**about.get(part, {}), **changes} if isinstance(changes, dict) else changes
    durable.write_container(forged, {**about, part: changed}, members)
    status, out, error = run("act", forged)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"{forged}: its manifest does not match this release ({field}" in error


COUNT = "an integer from 0 to 9,223,372,036,854,775,807"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("encoder", None, "encoder is None, not an object"),
        ("encoder", [[]], "encoder is [[]], not an object"),
        ("encoder.encoder", "resnet", "encoder.encoder is 'resnet', not one of data-efficient"),
        ("encoder.frame", "4\n2", "its encoder does not fit: frame is 4 2 there"),
        ("algo", "ppo", "algo is 'ppo', not one of rainbow"),
        ("provenance", {}, "provenance.timestep is missing"),
        ("provenance", [1], "provenance is [1], not an object"),
        ("learner", None, "learner is None, not an object"),
        ("learner.values", [[]], "learner.values is [[]], not an object"),
        ("learner.values.updates", "x", f"learner.values.updates is 'x', not {COUNT}"),
        ("learner.values.updates", -1, f"learner.values.updates is -1, not {COUNT}"),
        ("replay.values", [], "replay.values is [], not an object"),
        ("replay.values.codec", ["float32"], "replay.values.codec is ['float32'], not one of float32"),
        ("replay.values.codec", "float8", "replay.values.codec is 'float8', not one of float32"),
        ("replay.values.codec", "uint8", "replay.values.codec_counts.clipped is missing"),
        ("replay.values.layout", [], "replay.values.layout is [], not an object"),
        ("replay.values.layout.more", 1, "replay.values.layout has the key 'more'"),
        ("replay.values.layout.rows", 1.5, f"replay.values.layout.rows is 1.5, not {COUNT}"),
        ("replay.values.largest_priority", "x", "replay.values.largest_priority is 'x', not a number"),
        ("replay.values.rng", [], "replay.values.rng is [], not an object"),
    ],
    ids=str,
)
def test_an_invalid_learner_with_valid_hashes_is_refused(
    place: str, value: Any, message: str, run: Run, bundle: Path, tmp_path: Path
) -> None:
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in opened.container.members}
    *above, key = place.split(".")
    changed = about
    for name in above:
        changed = changed[name]
    changed[key] = value
    forged = tmp_path / "forged.seer"
    durable.write_container(forged, about, members)
    status, out, error = run("train", *PIXEL_GAME, "--from", forged, "--run-dir", tmp_path / "run")
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"--from {forged}: " in error
    assert message in error
    assert not (tmp_path / "run").exists()


def test_a_bundle_cannot_run_a_command(run: Run, bundle: Path, tmp_path: Path) -> None:
    """Its manifest names the environment and the arguments for it. The hashes are valid."""
    mark, hostile = tmp_path / "mark", tmp_path / "hostile.seer"

    with open_container(bundle, MEMBER_BYTES_MAX) as opened:
        about = dict(opened.about)
        members = {name: (opened.read(name),) for name in member_names(bundle)}
    about["environment"]["id"] = "subprocess:run"
    about["environment"]["options"]["kwargs"] = {"args": ["touch", str(mark)]}
    write_container(hostile, about, members)
    for command in ("act", "eval"):
        status, out, error = run(command, hostile)
        assert (status, out) == (2, "")
        assert "run is of type function; name a class that derives from gymnasium.Env" in error
        assert not mark.exists()
