"""The DQN of Stable-Baselines3 as a rival: the game that it plays, and refused input."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from peers.sb3_dqn import STABLE_BASELINES3, StackedGame, main

from seer_edge.envs import EnvOptions, make_env

STEPS = 400


@pytest.mark.integration
def test_the_game_is_that_of_the_environment_with_stacks_and_clipped_rewards() -> None:
    played, plain = (make_env("Breakout", EnvOptions(), seed=5, training=True) for _ in range(2))
    game = StackedGame(played)
    newest = [np.zeros((84, 84), np.uint8)] * 3 + [plain.reset()]
    observation, _ = game.reset()
    actions, ends, games, rewards = np.random.default_rng(1), 0, [], set()
    for number in range(1, STEPS + 1):
        np.testing.assert_array_equal(observation, np.stack(newest[-4:]))
        action = actions.integers(4)
        step = plain.step(int(action))
        observation, reward, terminated, truncated, _ = game.step(action)
        newest.append(step.frame)
        rewards.add(reward)
        assert (reward, terminated, truncated) == (min(step.reward, 1.0), step.terminated, step.truncated)
        if step.episode is not None:
            games.append({"step": number, "return": step.episode.episode_return, "length": step.episode.length_steps})
        if terminated:
            ends += 1
            frame = plain.reset()
            newest = [*([np.zeros((84, 84), np.uint8)] * 3 if plain.new_scene else newest), frame]
            observation, _ = game.reset()
    assert rewards == {0.0, 1.0}
    assert game.log.games == games
    assert ends > len(games) > 0  # lost lives end episodes too
    played.close()
    plain.close()


def _refusal(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr("sys.argv", ["sb3_dqn.py", *words])
    assert main() == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_bad_input_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    find_spec, installed = importlib.util.find_spec, False

    def found(name: str, package: str | None = None) -> object:  # torch asks for other modules
        return installed or None if name == STABLE_BASELINES3 else find_spec(name, package)

    monkeypatch.setattr("importlib.util.find_spec", found)
    wanted = "sb3_dqn.py: the package stable_baselines3 is missing; pip install 'seer-edge[peers]'\n"
    assert _refusal([], monkeypatch, capsys) == wanted
    installed = True
    wanted = "sb3_dqn.py: --buffer-bytes 20000: holds no row of four frames; give more\n"
    assert _refusal(["--env", "Breakout", "--buffer-bytes", "20kB"], monkeypatch, capsys) == wanted
    wanted = "frames are not gray with 84x84 pixels, or its actions not discrete; name an Atari game\n"
    assert _refusal(["--env", "cartpole-swingup"], monkeypatch, capsys).endswith(wanted)
