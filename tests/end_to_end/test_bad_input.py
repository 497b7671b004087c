"""Bad input gives one line that names the flag, the value and a hint, exit status 2, and writes nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from seer_edge.cli import main
from seer_edge.config.hyperparameters import preset_to_toml
from seer_edge.config.presets import PRESETS

pytestmark = pytest.mark.usefixtures("each_environment_opens_once")

# Short, so that a missing check fails the test at once instead of training for a day.
TRAIN = ["train", "--env", "Alien", "--total-timesteps", "40"]
CONTROL = ["train", "--env", "cartpole-swingup", "--total-timesteps", "40"]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["seer-edge", *arguments])
    status = main()
    captured = capsys.readouterr()
    assert captured.out == ""
    return status, captured.err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "--env", "Alein"], ["--env Alein: unknown environment; nearest: Alien; write"]),
        (["train", "--env", "dm_control/walker-wlak-v0"], ["--env", "walker-wlak", "dm_control/walker-walk-v0"]),
        (["train", "--env", "cartpole-swing"], ["--env cartpole-swing: ", "cartpole-swingup"]),
        (["train", "--env", "hopper-hp"], ["--env hopper-hp: ", "hopper-hop"]),
        (["train", "--env", "nope"], ["--env nope: unknown environment; write an Atari name", "module:EnvId"]),
        (["train", "--env", ":"], ["--env :: unknown environment; write an Atari name"]),
        (["train", "--env", "::"], ["--env ::: module ':' cannot be imported: "]),
        (["train", "--env", "CartPole-v1"], ["--env", "CartPole-v1", "not images", "use --render-observations"]),
        ([*TRAIN, "--render-observations"], ["--env Alien", "leave --render-observations out"]),
        ([*TRAIN, "--color", "rgb"], ["--env Alien", "not rgb", "leave --color out"]),
        ([*TRAIN, "--color", "blue"], ["--color", "'blue'", "gray, rgb"]),
        ([*CONTROL, "--color", "gray"], ["--env cartpole-swingup", "not gray", "leave --color out"]),
        (["train", "--env", "ALE/Alien-ram-v5"], ["--env ALE/Alien-ram-v5: observes RAM", "without -ram"]),
        (["train", "--env", "lqr-lqr_2_1"], ["--env", "lqr-lqr", "unbounded actions"]),
        (["train"], ["--env"]),
        (["train", "--env", ""], ["--env", "'' is empty", "name an environment"]),
        (["plan", "--env", " "], ["--env", "' ' is empty", "name an environment"]),
        ([*TRAIN, "--mem-budget", "0.07 gigs"], ["--mem-budget", "'0.07 gigs'", "0.07GB"]),
        ([*TRAIN, "--mem-budget", "-1GB"], ["--mem-budget", "'-1GB'", "0.07GB"]),
        ([*TRAIN, "--mem-budget=-1GB"], ["--mem-budget", "'-1GB'", "0.07GB"]),
        ([*TRAIN, "--mem-budget", "7Gbit"], ["--mem-budget", "'7Gbit'", "0.07GB"]),
        ([*TRAIN, "--mem-budget", "nan"], ["--mem-budget", "'nan'", "0.07GB"]),
        ([*TRAIN, "--mem-budget", "9" * 5_000 + "GB"], ["--mem-budget", "'9999", "0.07GB"]),
        ([*TRAIN, "--mem-budget", "100000GB"], ["--mem-budget", "100000000000000", "this machine has"]),
        ([*TRAIN, "--threads", "100000"], ["--threads", "100000", "256"]),
        ([*TRAIN, "--seed", "9" * 5_000], ["--seed", "'9999", "whole number"]),
        ([*TRAIN, "--mem-budget", "0.3MB"], ["--mem-budget", "300000", "at least 388080"]),
        ([*TRAIN, "--mem-budget", "0.5MB", "--encoder", "canonical"], ["--mem-budget", "at least"]),
        ([*TRAIN, "--seed", "-1"], ["--seed", "-1"]),
        ([*TRAIN, "--run-dir", ""], ["--run-dir", "''", "name a folder"]),
        ([*TRAIN, "--from", "", "--take", "encoder"], ["--from", "''", "name a folder"]),
        (["resume", ""], ["RUN", "'' is empty", "name a run's folder"]),
        (["eval", ""], ["RUN|BUNDLE", "'' is empty", "name a run's folder, or a bundle"]),
        (["act", " "], ["BUNDLE", "' ' is empty", "name a bundle"]),
        (["export", "", "-o", "p.seer"], ["RUN", "'' is empty", "name a run's folder"]),
        ([*TRAIN, "--seed", "4294967296"], ["--seed", "4294967296"]),
        ([*TRAIN, "--seed", "1.5"], ["--seed", "'1.5'"]),
        ([*TRAIN, "--latent-codec", "float8"], ["--latent-codec", "'float8'", "float32"]),
        ([*TRAIN, "--latent-codec", "uint2"], ["--latent-codec", "'uint2'", "uint8, uint4"]),
        ([*TRAIN, "--total-timesteps", "30000", "--freeze-at", "30001"], ["--freeze-at", "30001", "never"]),
        ([*TRAIN, "--freeze-at", "soon"], ["--freeze-at", "'soon'", "never"]),
        ([*TRAIN, "--freeze-at", "0"], ["--freeze-at", "0"]),
        ([*TRAIN, "--freeze-at", "soon"], ["--freeze-at", "soon", "never or auto"]),
        ([*TRAIN, "--total-timesteps", "0"], ["--total-timesteps", "0"]),
        ([*TRAIN, "--total-timesteps", "1e6"], ["--total-timesteps", "'1e6'"]),
        ([*TRAIN, "--threads", "0"], ["--threads", "0"]),
        ([*TRAIN, "--eval-every", "0"], ["--eval-every", "0"]),
        ([*TRAIN, "--eval-episodes", "0"], ["--eval-episodes", "0"]),
        ([*TRAIN, "--protocol", "atari"], ["--protocol", "'atari'", "machado"]),
        ([*CONTROL, "--protocol", "machado"], ["--protocol machado: cartpole-swingup is not an Atari", "leave it out"]),
        ([*CONTROL, "--protocol", "paper"], ["--protocol paper: cartpole-swingup is not an Atari", "leave it out"]),
        ([*TRAIN, "--replay", "ranked"], ["--replay", "'ranked'", "prioritized"]),
        ([*TRAIN, "--encoder", "resnet"], ["--encoder", "'resnet'", "canonical"]),
        ([*TRAIN, "--preset", "Pong2"], ["--preset", "'Pong2'", "Alien"]),
        ([*CONTROL, "--resolution", "51"], ["--resolution 51: is not", "100 : 84", "one of 25, 50, 75, 100, "]),
        ([*CONTROL, "--resolution", "12"], ["--resolution 12: is not", "one of 25, 50, 75, 100, "]),
        ([*CONTROL, "--resolution", "200"], ["--resolution 200: is too large", "workspace", "125, 150, 175\n"]),
        (
            [*CONTROL, "--resolution", "175", "--mem-budget", "0.1GB", "--augmentations", "15"],
            ["--resolution 175", "workspace", "give a smaller one"],
        ),
        ([*CONTROL, "--resolution", "0"], ["--resolution", "'0'", "at least 1"]),
        ([*CONTROL, "--resolution", "-1"], ["--resolution", "'-1'", "at least 1"]),
        ([*CONTROL, "--resolution=-1"], ["--resolution", "'-1'", "at least 1"]),
        ([*CONTROL, "--resolution", "x"], ["--resolution", "'x'", "whole number", "digits"]),
        ([*TRAIN, "--resolution", "0"], ["--resolution", "'0'", "at least 1"]),
        ([*TRAIN, "--resolution", "15"], ["--resolution 15", "use 16 to 210"]),
        ([*TRAIN, "--resolution", "211"], ["--resolution 211", "use 16 to 210"]),
        ([*TRAIN, "--gray-levels", "8"], ["--gray-levels", "'8'", "choose one of 16, 32, 64"]),
        ([*TRAIN, "--gray-levels", "32.0"], ["--gray-levels", "'32.0'", "choose one of 16, 32, 64"]),
        ([*TRAIN, "--gray-levels", ""], ["--gray-levels", "''", "choose one of 16, 32, 64"]),
        (["plan", "--env", "Alien", "--gray-levels", "256"], ["--gray-levels", "'256'", "choose one of 16, 32, 64"]),
        ([*TRAIN, "--resolution", "24"], ["--encoder data-efficient", "24x24", "too small"]),
        ([*CONTROL, "--augmentations", "0"], ["--augmentations 0", "give 1 to 15"]),
        ([*CONTROL, "--augmentations", "16"], ["--augmentations 16", "give 1 to 15"]),
        ([*CONTROL, "--augmentations", "-4"], ["--augmentations -4", "give 1 to 15"]),
        ([*CONTROL, "--augmentations", "x"], ["--augmentations", "'x'", "whole number", "digits"]),
        ([*TRAIN, "--augmentations", "4"], ["--augmentations 4", "Alien is not cropped", "leave it out"]),
        ([*TRAIN, "--augmentations", "0"], ["--augmentations 0", "leave it out"]),
        ([*CONTROL, "--algo", "rainbow"], ["--algo rainbow", "cartpole-swingup", "continuous", "curl-sac or sac"]),
        ([*TRAIN, "--algo", "curl-sac"], ["--algo curl-sac", "Alien", "discrete", "rainbow"]),
        ([*TRAIN, "--algo", "sac"], ["--algo sac", "Alien", "discrete", "rainbow"]),
        ([*TRAIN, "--algo", "ddpg"], ["--algo", "'ddpg'", "rainbow, curl-sac, sac, dqn"]),
        ([*CONTROL, "--preset", "Alien"], ["--preset Alien", "cartpole-swingup", "continuous", "curl-sac or sac"]),
        ([*CONTROL, "--preset", "Alien", "--algo", "sac"], ["--preset Alien", "rainbow", "leave it out"]),
        ([*TRAIN, "--preset", "walker-walk"], ["--preset walker-walk", "Alien", "discrete", "rainbow"]),
        ([*CONTROL, "--freeze-layers", "0"], ["--freeze-layers", "'0'", "at least 1"]),
        ([*CONTROL, "--freeze-layers", "99"], ["--freeze-layers 99", "choose one of 1, 2, 3, 4, 5"]),
        ([*TRAIN, "--freeze-layers", "99"], ["--freeze-layers 99", "choose one of 1, 2"]),
        ([*CONTROL, "--encoder", "impala", "--freeze-layers", "4"], ["--freeze-layers 4", "impala", "1, 3, 5, 6"]),
        ([*CONTROL, "--freeze-layers", "2", "--freeze-at", "never"], ["--freeze-layers 2", "--freeze-at never"]),
        ([*CONTROL, "--mem-budget", "1MB"], ["--mem-budget 1000000", "131 frames", "at least 3930000"]),
        ([*CONTROL, "--freeze-at", "41"], ["--freeze-at 41", "ends at step 40", "never"]),
        ([*CONTROL, "--encoder", "data-efficient", "--resolution", "25"], ["--encoder data-efficient", "21x21"]),
        ([*CONTROL, "--from", "no-such-run", "--take", "encoder"], ["--from no-such-run", "--run-dir of a run"]),
        ([*TRAIN, "--device", "cuda"], ["--device", "cuda", "cpu"]),
        ([*TRAIN, "--device", "gpu0"], ["--device", "gpu0", "cpu"]),
        (["plan", "--env", "Alien", "--device", "cuda"], ["--device cuda", "no CUDA device", "use cpu"]),
        (["plan", "--env", "Alien", "--device", "cuda:x"], ["--device cuda:x", "not a device", "use cpu"]),
        (["plan", "--env", "Alien", "--device", "mps"], ["--device mps", "not a device", "use cpu"]),
        ([*TRAIN, "--rss-limit", "200MB"], ["--rss-limit 200MB", "would need about", "the smallest possible run"]),
        ([*TRAIN, "--rss-limit", "0"], ["--rss-limit", "'0'", "less than one byte; use for example"]),
        ([*CONTROL, "--rss-limit", "720MB"], ["--rss-limit 720MB", "--resolution 50", "would fit"]),
        ([*TRAIN, "--checkpoint-every", "0"], ["--checkpoint-every", "'0'", "at least 1"]),
        ([*TRAIN, "--checkpoint-every", "-5"], ["--checkpoint-every", "'-5'", "at least 1"]),
        ([*TRAIN, "--checkpoint-every", "5m"], ["--checkpoint-every", "'5m'", "10min"]),
        ([*TRAIN, "--checkpoint-every", "0.5s"], ["--checkpoint-every 0.5s", "at least one second"]),
        ([*TRAIN, "--env-timeout", "60"], ["--env-timeout", "'60'", "30s"]),
        ([*TRAIN, "--checkpoint-every", "10000h"], ["--checkpoint-every", "'10000h'", "use at most 8760h"]),
        ([*TRAIN, "--env-timeout", "0s"], ["--env-timeout", "'0s'", "use for example 30s"]),
        ([*TRAIN, "--freeze", "1000"], ["--freeze", "train --help"]),
        ([*TRAIN, "--seed"], ["--seed: expected one argument; write its value behind it"]),
        ([*TRAIN, "extra"], ["extra", "train --help"]),
        (["report", "runs/x"], ["-o: is missing"]),
        (["analyze", "runs/x"], ["the following arguments are required: -o"]),
        (["analyze", "runs/x", "-o", ""], ["-o", "'' is empty", "name a folder"]),
        (
            ["analyze", "runs/x", "-o", "out"],
            ["runs/x: there is no such file or folder", "give the --run-dir of a run"],
        ),
        (["analyze", "runs/x", "-o", "out", "--rows", "0"], ["--rows", "out of range", "from 16"]),
        ([*TRAIN, "--from", ".", "--take", "encoder", "--analyze"], ["--analyze: the encoder of --from never changes"]),
        (["resume"], ["RUN"]),
        (["resume", "no-such-run"], ["no-such-run: there is no such file or folder", "give the --run-dir of a run"]),
        (["resume", "no-such-run", "--seed", "1"], ["--seed: cannot change in a run that has begun", "leave it out"]),
        (["resume", "no-such-run", "--seed=-1"], ["--seed: cannot change in a run that has begun", "leave it out"]),
        (
            ["resume", "no-such-run", "--pipeline", "off"],
            ["--pipeline: cannot change in a run that has begun", "leave it out"],
        ),
        (["resume", "no-such-run", "--fast"], ["unrecognized arguments: --fast; ", "resume --help"]),
        (["eval", "no-such-run", "--env", "Alien"], ["unrecognized arguments: --env Alien; ", "eval --help"]),
        (["resume", "no-such-run", "--mem-budget", "7Gbit"], ["--mem-budget", "'7Gbit'", "0.07GB"]),
        (["eval", "no-such-run"], ["no-such-run: there is no such file or folder", "of a run, or a bundle"]),
        (["eval", "nope.seer"], ["nope.seer: there is no such file or folder", "of a run, or a bundle"]),
        (["export", "no-such-run", "-o", "p.seer"], ["no-such-run: there is no such file or folder"]),
        (["eval", "no-such-run", "--episodes", "0"], ["--episodes", "'0'"]),
        ([*TRAIN, "--set", "bach_size=8"], ["--set bach_size=8: unknown hyperparameter; nearest: batch_size"]),
        ([*TRAIN, "--set", "features=8"], ["--set features=8: unknown hyperparameter; choose one of", "gamma"]),
        ([*CONTROL, "--set", "atoms=8"], ["--set atoms=8: unknown hyperparameter;", "alpha_beta1"]),
        ([*TRAIN, "--set", "batch_size"], ["--set: 'batch_size' is not KEY=VALUE; write for example batch_size=64"]),
        ([*TRAIN, "--set", "=3"], ["--set: '=3' is not KEY=VALUE"]),
        ([*TRAIN, "--set", "batch_size="], ["--set: 'batch_size=' is not KEY=VALUE"]),
        ([*TRAIN, "--set", "batch_size=many"], ["--set batch_size=many: give a whole number"]),
        ([*TRAIN, "--set", "batch_size=8.5"], ["--set batch_size=8.5: give a whole number"]),
        ([*TRAIN, "--set", "batch_size=true"], ["--set batch_size=True: give a whole number"]),
        ([*TRAIN, "--set", "batch_size=0"], ["--set batch_size=0: must be at least 1"]),
        ([*TRAIN, "--set", "batch_size=" + "9" * 5_000], ["--set batch_size=9999", ": give a whole number"]),
        ([*TRAIN, "--set", "gamma=1.5"], ["--set gamma=1.5: must be in [0, 1]"]),
        ([*TRAIN, "--set", "gamma=none"], ["--set gamma=none: give a number"]),
        ([*TRAIN, "--set", "gamma=inf"], ["--set gamma=inf: give a number"]),
        ([*TRAIN, "--set", "reward_clip=x"], ["--set reward_clip=x: give a number, or none"]),
        ([*TRAIN, "--set", "value_range=3"], ["--set value_range=3: give 2 numbers in brackets"]),
        ([*TRAIN, "--set", "value_range=3,1"], ["--set value_range=[3, 1]: must rise"]),
        ([*TRAIN, "--set", "value_range=-1e40,1"], ["--set value_range=[-1e+40, 1]: must be within -1e+30 and 1e+30"]),
        ([*TRAIN, "--set", "seed=3"], ["--set seed=3: --seed sets seed; give that flag instead"]),
        ([*TRAIN, "--set", "mem-budget=3"], ["--set mem-budget=3: --mem-budget sets"]),
        ([*TRAIN, "--set", "mem_budget_bytes=3"], ["--set mem_budget_bytes=3: --mem-budget sets"]),
        ([*CONTROL, "--set", "contrastive=false"], ["--set contrastive=False: --algo sets contrastive"]),
        ([*TRAIN, "--set", "action_repeat=2"], ["--set action_repeat: Alien is not a control task"]),
        ([*CONTROL, "--set", "action_repeat=0"], ["--set action_repeat=0: must be at least 1"]),
        ([*TRAIN, "--preset", "mine.toml"], ["--preset mine.toml: there is no such file; give a TOML file, or a name"]),
        ([*TRAIN, "--preset", "./"], ["--preset ./: cannot be read", "give a TOML file"]),
        ([*TRAIN, "--quiet", "--verbose"], ["--verbose: not allowed with argument --quiet"]),
        ([*TRAIN, "--log-file", "no/such/file"], ["--log-file no/such/file: cannot be written", "name another file"]),
        ([*TRAIN, "--log-file", "/dev/null"], ["--log-file /dev/null: is there already, and is not a regular file"]),
        (["presets", "Pong2"], ["NAME Pong2: unknown preset; `seer-edge presets` lists them"]),
        (["presets", "Alien", "--algo", "sac"], ["--algo sac", "rainbow"]),
        (["completion", "tcsh"], ["SHELL: unknown value 'tcsh'; choose one of bash, zsh, fish"]),
        (["completion"], ["SHELL"]),
        (["fly"], ["fly", "train"]),
        ([], ["train", "--help"]),
    ],
    ids=lambda words: " ".join(words)[:70],
)
def test_bad_input_is_reported_in_one_line_with_flag_value_and_hint(
    arguments: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    status, error = run(arguments, monkeypatch, capsys)
    assert status == 2
    assert error.count("\n") == 1
    assert error.startswith("seer-edge")
    for part in parts:
        assert part in error
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_of_the_freeze_is_reported_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    folder = tmp_path / "run"
    status, error = run([*TRAIN, "--run-dir", str(folder)], monkeypatch, capsys)
    assert (status, error) == (2, "seer-edge train: learning needs onnx; pip install 'seer-edge[train]'\n")
    assert not folder.exists()


def test_a_run_folder_that_is_not_empty_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    status, error = run([*TRAIN, "--run-dir", str(tmp_path)], monkeypatch, capsys)
    assert status == 2
    assert str(tmp_path) in error
    assert "not empty" in error
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("inside", ["", "/new"])
@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (TRAIN, "--run-dir"),
        (["fork", "{tmp}/other"], "-o"),
        (["sweep", "--envs", "Alien"], "-o"),
        (["reproduce", "table1", "--scale", "0.001"], "-o"),
    ],
)
def test_no_command_writes_into_the_folder_of_another_run(
    words: list[str],
    flag: str,
    inside: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    place = f"{tmp_path}/mine{inside}"
    status, error = run([*(word.format(tmp=tmp_path) for word in words), flag, place], monkeypatch, capsys)
    assert status == 2
    assert error.startswith(f"seer-edge {words[0]}: {flag} {place}: ")
    assert "is a run's folder; name a folder elsewhere" in error or "not empty" in error
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "mine",
        "mine/config.json",
        "other",
        "other/config.json",
    ]


def test_a_cluster_address_without_its_engine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep", "--envs", "Alien", "-o", str(tmp_path / "sweep"), "--ray-address", "node:6379"]
    status, error = run(words, monkeypatch, capsys)
    wanted = "seer-edge sweep: --ray-address node:6379: needs --engine ray; give both or none\n"
    assert (status, error) == (2, wanted)


@pytest.mark.parametrize(
    "folder", ["{tmp}/file/run", "{tmp}/file/a/run", "/proc/run", "{tmp}/file", "{tmp}/" + 300 * "x"]
)
def test_a_run_folder_that_cannot_be_written_is_refused(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    path = folder.format(tmp=tmp_path)
    monkeypatch.setattr(sys, "argv", ["seer-edge", *TRAIN, "--run-dir", path])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert f"--run-dir {path}: " in printed.err
    if "file/" in path:
        assert f"{tmp_path}/file is a file; name a folder elsewhere" in printed.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


ALIEN_PRESET = preset_to_toml(PRESETS["alien", "rainbow"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (ALIEN_PRESET + "bach_size = 3\n", "unknown entry 'bach_size'; nearest: batch_size"),
        (ALIEN_PRESET + "name = 'x'\n", "unknown entry 'name'; choose one of"),
        (ALIEN_PRESET.replace("gamma = 0.99", "gamma = 1.5"), "gamma must be in [0, 1]"),
        (ALIEN_PRESET.replace("gamma = 0.99", "gamma = nan"), "gamma = nan: give a number"),
        (ALIEN_PRESET.replace("batch_size = 32", "batch_size = 'many'"), "batch_size = many: give a whole number"),
        (ALIEN_PRESET.replace("batch_size = 32", "batch_size = [32]"), "batch_size = [32]: give a whole number"),
        (ALIEN_PRESET.replace("batch_size = 32", "[batch_size]"), "batch_size = {"),
        (ALIEN_PRESET.replace("= 70000000", "= 0"), "mem_budget_bytes must be at least 1"),
        (ALIEN_PRESET.replace('"data-efficient"', '"resnet"'), "encoder = resnet: choose one of data-efficient"),
        (ALIEN_PRESET.replace('"rainbow"', '"dreamer"'), "algo = dreamer: unknown agent; choose one of rainbow"),
        (ALIEN_PRESET.replace("algo", "# algo"), "algo is missing; choose one of rainbow"),
        (preset_to_toml(PRESETS["walker-walk", "sac"]), "Alien has discrete actions; use --algo rainbow"),
        ("batch size = 3\n", "not valid TOML ("),
        ("x = " + "9" * 5_000, "not valid TOML ("),
        ("\0", "not valid TOML ("),
        ("x = " + 3_000 * "[", "not valid TOML ("),
        (b"\xff\xfe", "not text in UTF-8"),
        ("#" * 70_000, "larger than 65,536 B"),
        ("", "algo is missing"),
    ],
    ids=lambda text: repr(text[-40:]),
)
def test_a_bad_preset_file_is_refused(
    text: str | bytes,
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    status, error = run([*TRAIN, "--preset", "mine.toml"], monkeypatch, capsys)
    assert status == 2
    assert error.count("\n") == 1
    assert error.startswith("seer-edge train: --preset mine.toml: ")
    assert part in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_closed_pipe_prints_no_traceback() -> None:
    command = f"{sys.executable} -m seer_edge plan --env Alien | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "byte plan"
