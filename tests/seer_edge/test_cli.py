"""The command line without a run: help, its reference page, presets, completion and messages."""

import argparse
import dataclasses
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seer_edge.cli import main, output
from seer_edge.cli.flags import SHELLS, make_parser, parse
from seer_edge.config.build import build_config
from seer_edge.config.config import TrainConfig
from seer_edge.config.hyperparameters import hyperparameters, override, preset_to_toml, read_preset
from seer_edge.config.presets import PRESETS, Preset
from seer_edge.config.registry import ALGORITHMS
from seer_edge.config.request import RunOptions, RunRequest, has_flag
from seer_edge.config.values import parse_assignment
from seer_edge.envs import Discrete, EnvSpec
from seer_edge.errors import BadInputError
from tools import clidoc

COMMANDS = ("train", "plan", "resume", "eval", "export", "act", "presets", "doctor", "completion")
ALIEN = EnvSpec("ALE/Alien-v5", "Alien", (84, 84), (84, 84), Discrete(18))


def command_parser(command: str) -> argparse.ArgumentParser:
    [commands] = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return commands.choices[command]


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["seer-edge", *words])
    return main()


# --- help ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_one_flag_a_line_with_its_meaning(command: str) -> None:
    parser = command_parser(command)
    lines = parser.format_help().splitlines()
    assert max(map(len, lines)) <= 100
    starts = [line for line in lines if re.match(r"  -", line)]
    for action in parser._actions:
        for flag in action.option_strings[:1]:
            assert sum(line.split()[0].rstrip(",") == flag for line in starts) == 1
        assert action.help
        assert action.help.startswith("show this") or re.match(r"[A-Z].*\.$", action.help), action.help
    assert sum(len(action.option_strings) > 0 for action in parser._actions) == len(starts)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_states_the_default_of_every_flag_with_a_value(command: str) -> None:
    for action in command_parser(command)._actions:
        if action.option_strings and action.nargs != 0 and not isinstance(action, argparse._AppendAction):
            assert action.help
            assert ("Required." if action.required else "Default: ") in action.help or action.dest == "record"


def test_help_of_resume_says_that_each_setting_stays_as_before() -> None:
    actions = {action.dest: action.help or "" for action in command_parser("resume")._actions}
    others = [name for name, text in actions.items() if not text.endswith("Default: as before.")]
    assert others == ["help", "run", "quiet", "verbose", "log_file"]


def test_the_reference_page_is_current() -> None:
    assert clidoc.DOCUMENT.read_text() == clidoc.document(), "run python tools/clidoc.py"


def test_flags_options_and_requests_have_the_same_names() -> None:
    flags = {action.dest for action in command_parser("train")._actions} - {"help", "run_dir", "quiet", "verbose"}
    assert flags - {"log_file"} == {field.name for field in dataclasses.fields(RunRequest)}
    assert set(RunOptions.__annotations__) == flags - {"log_file", "env"}


# --- presets and --set -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: f"{preset.name}-{preset.algo}")
def test_every_preset_is_read_back_from_its_file(
    preset: Preset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "presets", preset.name, "--algo", preset.algo) == 0
    path = tmp_path / "mine.toml"
    path.write_text(capsys.readouterr().out)
    assert read_preset(str(path)) == dataclasses.replace(preset, name=str(path), source=str(path))


def test_every_preset_is_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "presets") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [[preset.name, preset.algo] for preset in PRESETS.values()]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_hyperparameter_without_a_flag_can_be_set(algo: str) -> None:
    preset = PRESETS[ALGORITHMS[algo].default_preset.lower(), algo]
    for name, entry in hyperparameters(algo).items():
        value = getattr(preset.settings if entry.in_settings else preset, name)
        if not has_flag(name):
            assert override(preset, {name: value})[0] == preset
        else:
            with pytest.raises(BadInputError, match=f"--set {name}="):
                override(preset, {name: value})


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_hyperparameter_has_a_description(algo: str) -> None:
    entries = hyperparameters(algo)
    assert [name for name, entry in entries.items() if not entry.meaning] == []
    # A class of settings that only changes the default inherits the meaning.
    assert entries["learning_rate"].meaning == "step size of Adam"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("batch_size=64", 64),
        ("gamma=.95", 0.95),
        ("gamma=1", 1.0),
        ("learning_rate=1e-4", 1e-4),
        ("reward_clip=none", None),
        ("reward_clip=2", 2.0),
        ("value_range=-5,5", (-5.0, 5.0)),
        ("value_range=[-5.0, 5]", (-5.0, 5.0)),
        ("n-step = 3", 3),
    ],
)
def test_a_hyperparameter_is_set_from_text(text: str, value: object) -> None:
    key, given = parse_assignment(text)
    changed, lines = override(PRESETS["alien", "rainbow"], {key: given})
    name = key.replace("-", "_")
    assert getattr(changed.settings, name) == value
    assert type(getattr(changed.settings, name)) is type(value)
    assert [line.partition("=")[0] for line in lines] == [name]


def test_a_value_that_is_nested_too_deeply_stays_text() -> None:
    nested = 3_000 * "["
    assert parse_assignment(f"hidden={nested}") == ("hidden", nested)


def test_values_that_were_set_are_in_the_configuration() -> None:
    config = build_config(ALIEN, overrides={"batch_size": 8, "gamma": 0.5})
    assert (config.settings.batch_size, config.settings.gamma) == (8, 0.5)
    assert config.overrides == ("batch_size=8", "gamma=0.5")
    assert TrainConfig.from_json(config.to_json()) == config


def test_an_older_configuration_was_not_overridden() -> None:
    data = build_config(ALIEN).to_json()
    del data["overrides"]
    assert TrainConfig.from_json(data).overrides == ()


def test_a_preset_file_is_used_and_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(preset_to_toml(PRESETS["alien", "rainbow"]).replace("batch_size = 32", "batch_size = 16"))
    config = build_config(ALIEN, preset=str(path), overrides={"n_step": 5})
    assert (config.preset, config.settings.batch_size, config.settings.n_step) == (str(path), 16, 5)


# --- completion ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_flag(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "completion", shell) == 0
    script = capsys.readouterr().out
    for command in COMMANDS:
        assert command in script
    for action in command_parser("train")._actions:
        for flag in action.option_strings:
            assert (flag.lstrip("-") if shell == "fish" else flag) in script
    assert "walker-walk" in script


def test_bash_completes_a_command_and_a_value(tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    done = subprocess.run([sys.executable, "-m", "seer_edge", "completion", "bash"], capture_output=True, check=True)
    script.write_bytes(done.stdout)
    ask = (
        f"source {script}; COMP_WORDS=(seer-edge $1 $2 $3); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        "$(complete -p seer-edge | sed 's/.*-F \\([^ ]*\\).*/\\1/'); echo ${COMPREPLY[@]}"
    )

    def completed(*words: str) -> list[str]:
        done = subprocess.run(["bash", "-c", ask, "bash", *words], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("tr") == ["train"]
    assert completed("train", "--latent-codec", "ui") == ["uint8", "uint4"]
    assert completed("presets", "walk") == ["walker-walk", "walker-stand"]
    assert completed("reproduce", "fig1") == ["fig10", "fig11", "fig12", "fig13"]


# --- messages --------------------------------------------------------------------------------------------------


def messages(*, quiet: bool = False, verbose: bool = False, log_file: Path | None = None) -> None:
    with output.tolerant_output():
        output.configure(quiet=quiet, verbose=verbose, log_file=log_file)
        output.OUTPUT.info("the plan")
        output.LOG.debug("a detail")
        output.LOG.info("progress")
        output.LOG.warning("odd")
        output.LOG.error("wrong")
        output.print_result("42")


def test_messages_go_to_stderr_and_results_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    messages()
    assert capsys.readouterr() == ("the plan\n42\n", "progress\nwarning: odd\nwrong\n")


def test_quiet_leaves_results_warnings_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    messages(quiet=True)
    assert capsys.readouterr() == ("42\n", "warning: odd\nwrong\n")


def test_verbose_adds_details_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    messages(verbose=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "DEBUG a detail",
        "INFO progress",
        "WARNING odd",
        "ERROR wrong",
    ]


def test_a_log_file_has_every_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    for _ in range(2):
        messages(quiet=True, log_file=path)
    levels = [line.split()[2] for line in path.read_text().splitlines()]
    assert levels == ["INFO", "DEBUG", "INFO", "WARNING", "ERROR"] * 2


@pytest.mark.parametrize("before", [b"step,return,length,updates\n", b"{}", b"\xff\x00"])
def test_an_existing_file_that_is_not_a_log_is_refused(before: bytes, tmp_path: Path) -> None:
    path = tmp_path / "episodes.csv"
    path.write_bytes(before)
    with pytest.raises(BadInputError, match=f"^--log-file {path}: is there already, and is not a log; name another"):
        messages(log_file=path)
    assert path.read_bytes() == before


def test_a_log_file_on_a_full_disk_gives_one_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "check_target", lambda flag, path: None)  # which refuses devices
    messages(log_file=Path("/dev/full"))
    out, err = capsys.readouterr()
    assert out == "the plan\n42\n"
    assert err.count("--log-file /dev/full: cannot be written any more (No space left on device)") == 1
    assert err.splitlines()[-3:] == ["progress", "warning: odd", "wrong"]


def test_handlers_are_removed_afterwards() -> None:
    before = list(logging.getLogger("seer_edge").handlers)
    messages()
    assert logging.getLogger("seer_edge").handlers == before
    assert logging.getLogger("seer_edge").propagate


def test_an_unexpected_error_is_in_the_log_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*words: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("seer_edge.api.plan", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        run(monkeypatch, "plan", "--env", "Alien", "--log-file", str(tmp_path / "log"))
    assert "RuntimeError: a bug" in (tmp_path / "log").read_text()
    assert "a bug" not in capsys.readouterr().err


def test_flags_are_parsed_into_a_request() -> None:
    flags = parse(
        ["train", "--env", "Alien", "--mem-budget", "2MB", "--set", "n_step=3", "--checkpoint-every", "10min"]
    )
    given = {field.name: getattr(flags, field.name) for field in dataclasses.fields(RunRequest)}
    request = RunRequest.of(**given)
    assert request == RunRequest.of(env="Alien", mem_budget="2MB", set={"n_step": 3}, checkpoint_every="10min")
    assert (request.mem_budget, request.checkpoint_every) == (2_000_000, 600.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 3  # type: ignore[misc]


def test_modules_of_users_do_not_see_the_arguments_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seer_test_parsing.py").write_text("import sys\nseen = list(sys.argv)\n")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", "--env", "seer_test_parsing:Absent", "--quiet") == 2
    assert sys.modules.pop("seer_test_parsing").seen == ["seer-edge"]
    assert sys.argv[1:] == ["train", "--env", "seer_test_parsing:Absent", "--quiet"]
