"""`export`, `act`, `eval BUNDLE` and `train --from BUNDLE`, as a user gives them."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest

from seer_edge.config.algorithms.rainbow import RainbowNetworks
from seer_edge.config.presets import PRESETS, RainbowSettings
from seer_edge.runs import demos
from seer_runtime import Policy, durable
from seer_runtime.durable.container import CONTAINER_VERSION, write_container
from seer_runtime.policy.bundle import HEAD, MEMBER_BYTES_MAX, open_bundle
from tests.end_to_end.short_presets import GAME, RAINBOW, TASK, Run, command
from tests.runtime.bundles import forged
from tests.seer_edge.env_registry import register

PIXEL_GAME = ("--env", GAME)
CONTROL = ("--env", TASK, "--resolution", "25")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def frozen(folder: Path) -> Path:
    """A finished run of the pixel game, frozen on the way."""
    command("train", *PIXEL_GAME, "--run-dir", folder / "frozen")
    return folder / "frozen"


@pytest.fixture(scope="module")
def bundle(folder: Path, frozen: Path) -> Path:
    """Of that run, with all that there is."""
    command("export", frozen, "-o", folder / "all.seer", "--with", "learner", "--with", "replay")
    return folder / "all.seer"


def _generation(run: Path, step: int | None = None) -> dict[str, Any]:
    path = durable.newest_checkpoint(run / "checkpoints").path
    if step is not None:
        path = path.with_name(f"step_{step:010d}")
    return {name: durable.read_tensors(path / f"{name}.safetensors") for name in ("agent", "replay")}


# --- what is written -----------------------------------------------------------------------------------------


def test_the_same_run_gives_the_same_bytes(run: Run, frozen: Path, bundle: Path, tmp_path: Path) -> None:
    for extras in ((), ("--with", "replay", "--with", "learner")):
        for name in ("one", "two"):
            status, out, _ = run("export", frozen, "-o", tmp_path / name, *extras)
            assert status == 0
            assert f"{(tmp_path / name).stat().st_size:,} B" in out.splitlines()[-1]
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "two").read_bytes() == bundle.read_bytes()


def test_a_head_too_large_for_readers_is_refused_before_anything_is_written(
    run: Run, frozen: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle that is there already stays."""
    standing = tmp_path / "policy.seer"
    standing.write_bytes(bundle.read_bytes())
    monkeypatch.setitem(MEMBER_BYTES_MAX, HEAD, 1_000)
    for path in (standing, tmp_path / "new.seer"):
        status, out, error = run("export", frozen, "-o", path)
        assert (status, out, error.count("\n")) == (2, "", 1)
        assert f"-o {path}: not written: head.onnx takes " in error
        assert "reads at most 1,000 B; train with another --encoder or a smaller `hidden`" in error
    assert standing.read_bytes() == bundle.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.seer"]


def test_export_refuses_a_bundle_that_cannot_be_loaded(
    run: Run, frozen: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head for four actions in a bundle that says three, as an agent of a plugin could build it."""
    build = RainbowNetworks.policy_graph

    def wrong(networks: RainbowNetworks, settings: RainbowSettings, agent: Any) -> bytes:
        rows = 4 * networks.head.atoms
        wider = {
            name: np.resize(array, (rows, *array.shape[1:])) if name.startswith("head.advantage.") else array
            for name, array in agent.items()
        }
        return build(dataclasses.replace(networks, head=dataclasses.replace(networks.head, actions=4)), settings, wider)

    standing = tmp_path / "policy.seer"
    standing.write_bytes(bundle.read_bytes())
    monkeypatch.setattr(RainbowNetworks, "policy_graph", wrong)
    status, out, error = run("export", frozen, "-o", standing)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert f"-o {standing}: not written, because `act` cannot load it (" in error
    assert standing.read_bytes() == bundle.read_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["policy.seer"]


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


# --- what is played ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        (*PIXEL_GAME, "--total-timesteps", "60"),
        (*PIXEL_GAME, "--freeze-at", "never", "--total-timesteps", "40"),
        (*PIXEL_GAME, "--freeze-layers", "1", "--total-timesteps", "60"),
        pytest.param((*CONTROL, "--total-timesteps", "40"), marks=pytest.mark.slow),
    ],
    ids=["frozen", "unfrozen", "partly", "control"],
)
def test_a_bundle_plays_as_its_run_does(run: Run, flags: tuple[str, ...], tmp_path: Path) -> None:
    assert run("train", *flags, "--run-dir", tmp_path / "run")[0] == 0
    assert run("export", tmp_path / "run", "-o", tmp_path / "p.seer")[0] == 0
    for more in ((), ("--episodes", "3", "--seed", "5")):
        _, wanted, _ = run("eval", tmp_path / "run", "--json", *more)
        status, got, _ = run("eval", tmp_path / "p.seer", "--json", *more)
        assert status == 0
        answer, expected = json.loads(got), json.loads(wanted)
        returns = answer.pop("returns"), expected.pop("returns")
        np.testing.assert_allclose(*returns, rtol=1e-3)  # controls differ in the last bits
        assert {"env", "timestep", "episodes"} <= expected.keys() <= answer.keys()


def test_act_prints_returns_and_latencies(run: Run, bundle: Path) -> None:
    status, out, error = run("act", bundle, "--episodes", "2", "--seed", "3")
    assert (status, error) == (0, "")
    about, returns, latency, rss = out.splitlines()
    assert about == f"{GAME}, step 75, 2 episodes"
    assert re.fullmatch(r"return [\d.]+ ± [\d.]+: \d+ \d+", returns)
    assert re.fullmatch(r"frame to action, 40 steps: p50 [\d.]+ ms, p90 [\d.]+ ms, p99 [\d.]+ ms", latency)
    assert rss.startswith("RSS peak ")
    assert run("act", bundle, "--episodes", "2", "--seed", "3", *PIXEL_GAME)[1].splitlines()[:2] == [about, returns]
    random = [run("act", bundle, "--epsilon", "1", "--seed", seed)[1].splitlines()[1] for seed in ("3", "4")]
    assert random[0] != random[1]


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


def test_act_records_what_the_policy_sees(run: Run, bundle: Path, tmp_path: Path) -> None:
    assert run("act", bundle, "--episodes", "1", "--record", tmp_path / "film.mp4")[0] == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]
    video = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    sides = video.get(cv2.CAP_PROP_FRAME_HEIGHT), video.get(cv2.CAP_PROP_FRAME_WIDTH)
    _, image = video.read()
    assert (count, sides) == (20, (336, 336))
    assert 100 < image.mean() < 156  # of noise around 128


TORCH_FREE = """
import sys
for name in ("torch", "onnx", "tqdm", "matplotlib", "safetensors"):
    sys.modules[name] = None  # whoever imports it fails
sys.argv = ["seer-edge", *sys.argv[1:]]
from seer_edge.cli import main
sys.exit(main())
"""


def _torch_free(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TORCH_FREE, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_the_base_install_acts_evaluates_and_plans(bundle: Path) -> None:
    for words in (("act", bundle, "--episodes", "1"), ("eval", bundle), ("plan", *PIXEL_GAME)):
        done = _torch_free(*words)
        assert (done.returncode, done.stderr) == (0, "")


def test_commands_without_their_extra_name_it(bundle: Path, frozen: Path, tmp_path: Path) -> None:
    for words, what in (
        (("train", *PIXEL_GAME, "--run-dir", tmp_path / "run"), "learning needs"),
        (("train", *PIXEL_GAME, "--from", bundle, "--run-dir", tmp_path / "run"), "learning needs"),
        (("export", frozen, "-o", tmp_path / "p.seer"), "export needs onnx"),
        (("plan", *PIXEL_GAME, "--device", "cuda"), "--device cuda: needs torch"),
    ):
        done = _torch_free(*words)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert what in line
        assert "pip install 'seer-edge[train]'" in line
    assert list(tmp_path.iterdir()) == []


# --- learning on ---------------------------------------------------------------------------------------------


def test_rows_of_another_codec_are_not_imported(run: Run, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    words = ("--from", bundle, "--latent-codec", "float16", "--run-dir", target)
    status, out, _ = run("train", *PIXEL_GAME, *words)
    assert status == 0
    assert "training continues from the bundle's head, after 54 updates" in out
    assert "the bundle's replay rows are not imported: their codec is float32, and --latent-codec is float16" in out


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
    theirs, begun = _generation(source)["replay"], _generation(tmp_path / "named", 0)["replay"]
    for part in ("rows", "reward", "codec.step", "codec.low"):
        held = theirs.get(part, np.zeros(0))
        np.testing.assert_array_equal(begun.get(part, np.zeros(0))[: len(held)], held)
    assert ("codec.step" in begun) == codec.startswith("uint")
    for name in names:  # from a checkpoint, with the grids of its own
        assert run("resume", tmp_path / name, "--total-timesteps", "60")[0] == 0
    assert _equal(*(_generation(tmp_path / name) for name in names))


@pytest.mark.parametrize("more", [("--take", "encoder"), ()])
def test_quantized_codecs_need_rows_to_calibrate_on(
    more: tuple[str, ...], run: Run, bundle: Path, frozen: Path, tmp_path: Path
) -> None:
    """These are float32."""
    source = frozen if more else bundle
    words = ("--from", source, *more, "--latent-codec", "uint8")
    status, out, error = run("train", *PIXEL_GAME, *words, "--run-dir", tmp_path / "run")
    assert (status, out, error.count("\n")) == (2, "", 1)
    wanted = f"--latent-codec uint8: needs rows to calibrate on, and {source} has no rows of that codec to import; "
    assert wanted + "leave it out to take the codec of its rows, if it has some, or choose" in error
    assert "float32, float16" in error
    assert run("plan", *PIXEL_GAME, *words)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_training_continues_from_the_head_of_a_bundle(run: Run, bundle: Path, frozen: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    status, out, _ = run("train", *PIXEL_GAME, "--from", bundle, "--seed", "4", "--run-dir", target)
    assert status == 0
    assert "training continues from the bundle's head, after 54 updates" in out
    source, begun, ended = _generation(frozen), _generation(target, 0), _generation(target)
    assert (target / "encoder.onnx").read_bytes() == (frozen / "encoder.onnx").read_bytes()
    head = {name for name in source["agent"] if "encoder." not in name}
    assert begun["agent"].keys() == head
    assert all(np.array_equal(begun["agent"][name], source["agent"][name]) for name in head)
    assert not np.array_equal(ended["agent"]["head.hidden.weight"], source["agent"]["head.hidden.weight"])
    rows = len(source["replay"]["reward"])
    assert f"{rows:,} replay rows are imported" in out
    np.testing.assert_array_equal(begun["replay"]["rows"][:rows], source["replay"]["rows"])
    np.testing.assert_array_equal(begun["replay"]["reward"][:rows], source["replay"]["reward"])
    assert len(begun["replay"]["reward"]) in (rows, rows + 1)  # an episode that was interrupted has its last frame
    summary = json.loads((target / "summary.json").read_text())
    assert summary["steps_per_second"]["pixel"] is None

    again = tmp_path / "again"
    assert run("train", *PIXEL_GAME, "--from", bundle, "--seed", "4", "--run-dir", again)[0] == 0
    assert _equal(_generation(again), ended)
    for path in (target, again):
        assert run("resume", path, "--total-timesteps", "90")[0] == 0
    assert _equal(_generation(again), _generation(target))
    assert run("export", target, "-o", tmp_path / "p.seer", "--with", "learner")[0] == 0
    assert run("eval", tmp_path / "p.seer")[1].splitlines()[1] == run("eval", target)[1].splitlines()[1]
    assert Policy.load(tmp_path / "p.seer").spec == Policy.load(bundle).spec


@pytest.mark.parametrize(("take", "waits"), [((), 0), (("--take", "encoder"), RAINBOW.learning_starts)])
def test_an_imported_head_with_its_rows_learns_from_the_first_step(
    run: Run, bundle: Path, tmp_path: Path, take: tuple[str, ...], waits: int
) -> None:
    steps, target = RAINBOW.learning_starts + 1, tmp_path / "run"
    words = ("--from", bundle, *take, "--total-timesteps", str(steps), "--pipeline", "off", "--run-dir", target)
    assert run("train", *PIXEL_GAME, *words)[0] == 0
    before, ended = (
        durable.newest_checkpoint(target / "checkpoints").path.with_name(f"step_{at:010d}") for at in (0, steps)
    )
    made = [json.loads((path / "state.json").read_text())["agent"]["updates"] for path in (before, ended)]
    assert made[1] - made[0] == steps - waits


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(
        one[part].keys() == other[part].keys()
        and all(np.array_equal(one[part][name], other[part][name]) for name in one[part])
        for part in one
    )


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
    theirs, begun = _generation(source)["agent"], _generation(target, 0)["agent"]
    assert {name for name in theirs if "encoder." not in name} == begun.keys()
    assert all(np.array_equal(begun[name], theirs[name]) for name in begun)
    fresh = tmp_path / "fresh"
    status, out, _ = run(*begin, "--take", "encoder", "--seed", "9", "--run-dir", fresh)
    assert status == 0
    assert "new head for 1 continuous action (--take encoder)" in out
    anew = _generation(fresh, 0)["agent"]
    assert not np.array_equal(anew["actor.policy.layers.0.weight"], theirs["actor.policy.layers.0.weight"])
    for name in ("actor.norm.weight", "critic.norm.bias"):  # of the encoder, so to speak
        np.testing.assert_array_equal(anew[name], theirs[name])


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


def test_an_interrupted_act_prints_its_results_and_keeps_its_video(bundle: Path, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    words = ["act", bundle, "--episodes", "1000000", "--record", film, "--json"]
    command = [sys.executable, "-m", "seer_edge", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        for _ in range(600):
            if list(tmp_path.iterdir()):
                break
            time.sleep(0.1)
        time.sleep(1)
        child.send_signal(signal.SIGINT)
        out, error = child.communicate(timeout=60)
    assert (child.returncode, error) == (130, "")
    told = json.loads(out)
    assert told["steps"] > 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]
    assert int(cv2.VideoCapture(str(film)).get(cv2.CAP_PROP_FRAME_COUNT)) == told["steps"]


def test_every_command_reads_a_link_to_a_bundle(run: Run, bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "policy.seer"
    link.symlink_to(bundle)
    for words in (("act", link, "--episodes", "1"), ("eval", link), ("plan", *PIXEL_GAME, "--from", link)):
        assert run(*words)[0] == 0
    words = ("--from", link, "--total-timesteps", "5", "--run-dir", tmp_path / "run")
    status, out, _ = run("train", *PIXEL_GAME, *words)
    assert status == 0
    assert "replay rows are imported" in out


# --- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("act", "{bundle}", "--env", "Pong"), ["--env Pong", "6 actions", "3 actions"]),
        (("act", "{bundle}", "--env", "Alein"), ["--env Alein", "Alien"]),
        (("act", "{bundle}", "--env", ""), ["--env", "'' is empty", "name an environment"]),
        (("act", "{bundle}", "--env", "CartPole-v1"), ["--env CartPole-v1", "not images", f"like {GAME}"]),
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
def test_bad_input(
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
    before = _standing(tmp_path)
    names = {"bundle": bundle, "run": frozen, "tmp": tmp_path, "damaged": damaged, "newer": tmp_path / "newer.seer"}
    status, out, error = run(*(word.format(**names) for word in words))
    assert (status, out, error.count("\n")) == (2, "", 1)
    for part in parts:
        assert part.format(**names) in error
    assert _standing(tmp_path) == before


def _standing(folder: Path) -> set[tuple[str, int, int]]:
    return {(path.name, path.lstat().st_mode, path.lstat().st_ino) for path in folder.iterdir()}


class _Rendered(gymnasium.Env[Any, Any]):
    """Three actions, no images but rendered ones, games of five steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(0, 1, (1,))
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 5, False, {}

    def render(self) -> Any:
        return np.full((60, 80, 3), self.steps, np.uint8)


@pytest.mark.parametrize("env", [GAME, "test/OnlyRendered-v0"])
def test_a_policy_of_rendered_frames_plays_images_too(
    env: str, run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a policy that was trained in a simulation plays a camera."""
    register(monkeypatch, "test/OnlyRendered-v0", entry_point=_Rendered)
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in ("encoder.onnx", "head.onnx")}
    for render, status in ((True, 0), (False, 0 if env == GAME else 2)):
        about["environment"] = {"id": "CartPole-v1", "name": "CartPole-v1", "options": {"render": render}}
        durable.write_container(tmp_path / "p.seer", about, members)
        assert run("act", tmp_path / "p.seer", "--env", env, "--episodes", "1")[0] == status


NOT_OF_ACT = ("--resolution", "--render-observations", "--color", "--protocol")


@pytest.mark.parametrize("env", ["CartPole-v1", TASK, "Alien"])
@pytest.mark.parametrize("options", [{}, {"render": True}, {"color": "rgb"}, {"protocol": "machado"}], ids=str)
def test_act_suggests_no_flag_that_it_does_not_have(
    options: dict[str, Any], env: str, run: Run, bundle: Path, tmp_path: Path
) -> None:
    """Whatever the policy was shown in training."""
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
    ],
)
def test_an_invalid_manifest_with_valid_hashes_is_refused(
    part: str, changes: Any, field: str, run: Run, bundle: Path, tmp_path: Path
) -> None:
    """Every hash is right."""
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in ("encoder.onnx", "head.onnx")}
    forged = tmp_path / "forged.seer"
    changed = {**about[part], **changes} if isinstance(changes, dict) else changes
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


def test_a_bundle_without_counters_of_its_codec_is_imported(run: Run, bundle: Path, tmp_path: Path) -> None:
    with open_bundle(bundle) as opened:
        about, members = opened.about, {name: [opened.read(name)] for name in opened.container.members}
    del about["replay"]["values"]["codec_counts"]
    durable.write_container(tmp_path / "p.seer", about, members)
    words = ("--from", tmp_path / "p.seer", "--total-timesteps", "5", "--run-dir", tmp_path / "run")
    status, out, _ = run("train", *PIXEL_GAME, *words)
    assert status == 0
    assert "replay rows are imported" in out
