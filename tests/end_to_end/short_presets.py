"""Presets whose runs are over in seconds, so that a test can train through the command line."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seer_edge.cli import main
from seer_edge.config.presets import PRESETS, Preset, RainbowSettings, SacSettings
from seer_edge.config.presets.atari import ATARI_DEFAULT
from seer_edge.config.presets.control import CONTROL_DEFAULT

GAME = "tests.end_to_end.pixel_match:PixelMatch-v0"
TASK = "cartpole-swingup"
PIXEL_GAME = ("--env", GAME)
CONTROL = ("--env", TASK, "--resolution", "25")
EPISODE_STEPS = 12  # of the task, under its preset's action repeat

RAINBOW = RainbowSettings(
    n_step=1, learning_starts=20, learning_rate=5e-4, target_update_steps=20, hidden=16, batch_size=8
)
SAC = SacSettings(batch_size=16, hidden=16, features=7, learning_starts=12, random_steps=8)


def short(preset: Preset, name: str, settings: RainbowSettings | SacSettings, action_repeat: int | None) -> Preset:
    """Return the preset with 75 steps and a freeze at 30."""
    return dataclasses.replace(
        preset,
        name=name,
        settings=settings,
        action_repeat=action_repeat,
        freeze_at_whole=30,
        freeze_at_bounded=30,
        total_timesteps=75,
        mem_budget_bytes=300_000,
        eval_every=75,
        eval_episodes=1,
    )


def use_short_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use short presets for GAME and for control tasks until the test ends."""
    presets = [short(ATARI_DEFAULT, "PixelMatch-v0", RAINBOW, None)]
    for task in (TASK, "cartpole-balance"):
        preset = short(CONTROL_DEFAULT, task, SAC, 84)
        plain = dataclasses.replace(preset, algo="sac", settings=dataclasses.replace(SAC, contrastive=False))
        presets += [preset, plain]
    for preset in presets:
        monkeypatch.setitem(PRESETS, (preset.name.lower(), preset.algo), preset)


Run = Callable[..., tuple[int, str, str]]


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command and returns its exit status, stdout and stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["seer-edge", *map(str, words)])
        status = main()
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def command(*words: str | Path) -> None:
    """Run a command with the short presets, outside a test. Assert that it succeeds."""
    with pytest.MonkeyPatch.context() as patch:
        use_short_presets(patch)
        patch.setattr("sys.argv", ["seer-edge", *map(str, words)])
        assert main() == 0


def trained_run(folder: Path, *flags: str) -> Path:
    """Train a run in `folder` with these flags, and return the folder."""
    command("train", *flags, "--run-dir", folder)
    return folder


def exported(run: Path) -> Path:
    """Export a run with its learner and its replay rows, and return the bundle, which is beside the run."""
    path = run.with_name("all.seer")
    command("export", run, "-o", path, "--with", "learner", "--with", "replay")
    return path
