"""Atari games compared with Gymnasium's preprocessing and with the bare emulator."""

from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing

import seer_edge.envs.atari
from seer_edge.envs import Discrete, EnvOptions, EnvSpec, Episode, Frame, ResolutionError, make_env, resolve
from seer_edge.envs.atari import Atari
from seer_edge.envs.atari_options import replaced_options


def _atari(game: str, seed: int = 1, **options: Any) -> Atari:
    return Atari(resolve(game), **{"seed": seed, "sticky": 0.0, "noops_max": 0, "life_loss_ends": False, **options})


def _actions(count: int, steps: int, seed: int = 0) -> list[int]:
    return [int(action) for action in np.random.default_rng(seed).integers(count, size=steps)]


def _rollout(env: Any, steps: int) -> tuple[Frame, list[float]]:
    """Take random actions without a reset; return frames `[steps + 1, 84, 84]` and raw rewards."""
    frames, rewards = [env.reset()], []
    for action in _actions(env.spec.actions.count, steps):
        step = env.step(action)
        frames.append(step.frame)
        rewards.append(step.reward)
    return np.stack(frames), rewards


@pytest.mark.integration
@pytest.mark.parametrize(("game", "steps"), [("Alien", 700), ("Breakout", 500)])
def test_atari_is_bit_identical_to_gymnasiums_preprocessing(game: str, steps: int) -> None:
    ours = _atari(game, seed=5)
    theirs = AtariPreprocessing(
        gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0),
        noop_max=0,
        frame_skip=4,
        screen_size=84,
        terminal_on_life_loss=False,
        grayscale_obs=True,
    )
    assert ours.spec.actions == Discrete(int(theirs.action_space.n))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(ours.reset(), theirs.reset(seed=5)[0])
    games, scored = 0, 0.0
    for action in _actions(18 if game == "Alien" else 4, steps):
        step = ours.step(action)
        frame, reward, terminated, truncated, _ = theirs.step(action)
        np.testing.assert_array_equal(step.frame, frame)
        assert (step.reward, step.terminated, step.truncated) == (reward, terminated, truncated)
        assert (step.episode is not None) == terminated
        scored += step.reward
        if terminated:
            games += 1
            np.testing.assert_array_equal(ours.reset(), theirs.reset()[0])
    assert games >= 1
    assert scored > 0
    ours.close()
    theirs.close()


class _Watched:
    """An emulator that keeps the screen of every frame."""

    def __init__(self, ale: Any) -> None:
        self._ale, self.screens = ale, list[Frame]()

    def act(self, action: Any) -> Any:
        reward = self._ale.act(action)
        self.screens.append(self._ale.getScreenGrayscale())
        return reward

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)


def _paper(older: Frame, newer: Frame) -> Frame:
    older, newer = (cv2.resize(screen, (84, 84), interpolation=cv2.INTER_LINEAR) for screen in (older, newer))
    return np.maximum(older, newer)


def _machado(older: Frame, newer: Frame) -> Frame:
    return cv2.resize(np.maximum(older, newer), (84, 84), interpolation=cv2.INTER_AREA)


def _assert_frames(game: str, protocol: Any, steps: int) -> None:
    env = make_env(game, EnvOptions(protocol), seed=3, training=True)
    assert isinstance(env, Atari)
    assert env.spec.resize == ("bilinear" if protocol == "paper" else "area")
    env._emulator.ale = watched = _Watched(env._emulator.ale)  # type: ignore[assignment]
    of_two = _paper if protocol == "paper" else _machado
    env.reset()
    compared = 0
    for action in _actions(env.spec.actions.count, steps):
        watched.screens.clear()
        step = env.step(action)
        if len(watched.screens) == 4 and not (step.episode and step.terminated):  # or the game ended within the step
            np.testing.assert_array_equal(step.frame, of_two(*watched.screens[-2:]))
            compared += 1
        if step.terminated or step.truncated:
            frame = env.reset()
            newest = env._emulator.ale.getScreenGrayscale()
            np.testing.assert_array_equal(frame, of_two(np.zeros_like(newest), newest))
    assert compared > 0.9 * steps
    env.close()


SIX = ["Alien", "Breakout", "CrazyClimber", "Krull", "Qbert", "RoadRunner"]


@pytest.mark.parametrize("protocol", ["paper", "machado"])
@pytest.mark.parametrize("game", SIX)
def test_frames_are_two_lines_of_opencv_and_numpy(game: str, protocol: str) -> None:
    _assert_frames(game, protocol, 150)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "machado"])
@pytest.mark.parametrize("game", SIX)
def test_frames_are_two_lines_of_opencv_and_numpy_over_whole_games(game: str, protocol: str) -> None:
    _assert_frames(game, protocol, 3_000)


def test_returned_frames_are_not_overwritten() -> None:
    env = _atari("Alien")
    env.reset()
    first = env.step(1).frame
    kept = first.copy()
    for action in _actions(18, 20):
        env.step(action)
    np.testing.assert_array_equal(first, kept)


@pytest.mark.integration
def test_a_lost_life_ends_the_episode_and_the_game_continues() -> None:
    env = _atari("Alien", life_loss_ends=True)
    ale = env._emulator.ale
    env.reset()
    total, length, after_loss, lives_seen = 0.0, 0, 0.0, [ale.lives()]
    for action in _actions(18, 1500):
        step = env.step(action)
        total += step.reward
        length += 1
        after_loss += step.reward * (len(lives_seen) > 1)
        assert not step.truncated
        if step.episode is not None:
            break
        assert step.terminated == (ale.lives() < lives_seen[-1])
        if step.terminated:
            lives_seen.append(ale.lives())
            with pytest.raises(RuntimeError, match="reset the environment"):
                env.step(0)
            frames_before = ale.getEpisodeFrameNumber()
            frame = env.reset()
            assert not env.new_scene
            assert ale.getEpisodeFrameNumber() == frames_before + 1
            assert ale.lives() == lives_seen[-1]
            screen = cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(frame, screen)
    assert step.terminated
    assert step.episode == Episode(total, length)
    assert lives_seen == [3, 2, 1]
    assert after_loss > 0

    env.reset()
    assert env.new_scene
    assert ale.lives() == 3
    assert ale.getEpisodeFrameNumber() == 0
    total, length = 0.0, 0
    for action in _actions(18, 1500, seed=1):
        step = env.step(action)
        total += step.reward
        length += 1
        if step.episode is not None:
            break
        if step.terminated:
            env.reset()
    assert step.episode == Episode(total, length)


def test_a_reset_within_a_life_or_after_a_fatal_noop_starts_a_new_game(monkeypatch: pytest.MonkeyPatch) -> None:
    env = _atari("Alien", life_loss_ends=True)
    env.reset()
    for action in _actions(18, 1500):
        if env.step(action).terminated:
            break
    assert env._emulator.ale.lives() == 2
    env.reset()
    assert env._emulator.ale.lives() == 2
    assert not env.new_scene
    env.reset()
    assert env._emulator.ale.lives() == 3
    assert env.new_scene

    for action in _actions(18, 1500):
        if env.step(action).terminated:
            break
    monkeypatch.setattr(env, "_survives_noop", lambda: False)
    env.reset()
    assert env.new_scene
    assert env._emulator.ale.lives() == 3
    assert env._emulator.ale.getEpisodeFrameNumber() == 0


@pytest.mark.integration
def test_a_lost_life_begins_a_new_scene_where_that_is_asked_for() -> None:
    kept, blank = (_atari("Breakout", life_loss_ends=True, blank_at_lost_life=asked) for asked in (False, True))
    np.testing.assert_array_equal(kept.reset(), blank.reset())
    assert kept.new_scene
    assert blank.new_scene
    lives_lost = 0
    for action in _actions(4, 600):
        steps = kept.step(action), blank.step(action)
        np.testing.assert_array_equal(steps[0].frame, steps[1].frame)
        if steps[0].terminated:
            np.testing.assert_array_equal(kept.reset(), blank.reset())
            lives_lost += steps[0].episode is None
            assert kept.new_scene == (steps[0].episode is not None)
            assert blank.new_scene
    assert lives_lost > 4


class _Lives:
    """An emulator that reports the given numbers of lives."""

    def __init__(self, ale: Any, lives: list[int]) -> None:
        self._ale, self._lives = ale, lives

    def lives(self) -> int:
        return self._lives.pop(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)


def test_zero_lives_before_the_end_of_the_game_are_not_a_lost_life() -> None:
    env = _atari("Alien", life_loss_ends=True)
    env._emulator.ale = _Lives(env._emulator.ale, [2, 1, 1, 0, 0])  # type: ignore[assignment]
    env.reset()
    assert env.step(0).terminated
    env.reset()
    assert not env.step(0).terminated
    assert not env.step(0).terminated


@pytest.mark.integration
@pytest.mark.parametrize("frames_max", [40, 41, 43])
def test_the_time_limit_truncates_and_shows_the_last_screen(frames_max: int) -> None:
    actions = _actions(18, 11)
    raw = gymnasium.make("ALE/Alien-v5", frameskip=1, repeat_action_probability=0.0, obs_type="grayscale")
    raw.reset(seed=1)
    screens = [raw.step(actions[i // 4])[0] for i in range(frames_max)]
    last = np.maximum(*screens[-2:]) if frames_max % 4 == 0 else screens[-1]

    env = _atari("Alien", game_frames_max=frames_max, life_loss_ends=True)
    env.reset()
    steps = [env.step(action) for action in actions[: -(-frames_max // 4)]]
    assert [step.truncated for step in steps] == [False] * (len(steps) - 1) + [True]
    assert not any(step.terminated for step in steps)
    assert steps[-1].episode == Episode(sum(step.reward for step in steps), len(steps))
    np.testing.assert_array_equal(steps[-1].frame, cv2.resize(last, (84, 84), interpolation=cv2.INTER_AREA))
    with pytest.raises(RuntimeError, match="reset the environment"):
        env.step(0)
    env.reset()
    assert env._emulator.ale.getEpisodeFrameNumber() == 0
    assert not env.step(0).truncated


def test_games_start_with_every_number_of_noops_up_to_the_maximum() -> None:
    env = _atari("Alien", noops_max=2)
    counts = set()
    for _ in range(20):
        env.reset()
        counts.add(env._emulator.ale.getEpisodeFrameNumber())
    assert counts == {0, 1, 2}


def test_the_seed_determines_the_trajectory() -> None:
    def play(seed: int) -> tuple[Frame, list[float]]:
        return _rollout(make_env("Alien", EnvOptions(), seed=seed, training=False), 60)

    frames, rewards = play(3)
    again, rewards_again = play(3)
    np.testing.assert_array_equal(frames, again)
    assert rewards == rewards_again
    assert not np.array_equal(frames, play(4)[0])


@pytest.mark.integration
def test_machado_is_sticky_and_paper_is_not() -> None:
    def play(sticky: float, seed: int) -> Frame:
        return _rollout(_atari("Alien", seed=seed, sticky=sticky), 30)[0]

    assert np.array_equal(play(0.0, 1), play(0.0, 2))
    sticky = play(0.25, 1)
    assert np.array_equal(sticky, play(0.25, 1))
    assert not np.array_equal(sticky, play(0.25, 2))
    env = _atari("Alien", sticky=0.25)
    assert not np.array_equal(_rollout(env, 30)[0], _rollout(env, 30)[0])


def test_machado_plays_whole_games() -> None:
    env = make_env("Breakout", EnvOptions("machado"), seed=1, training=True)
    assert isinstance(env, Atari)
    ale = env._emulator.ale
    env.reset()
    assert ale.getEpisodeFrameNumber() == 0
    lives = [ale.lives()]
    for action in _actions(4, 1000):
        step = env.step(action)
        lives.append(ale.lives())
        if step.terminated:
            break
    assert step.episode is not None
    assert step.episode.length_steps == len(lives) - 1
    assert set(lives) == {5, 4, 3, 2, 1, 0}


@pytest.mark.parametrize("env", ["Alien", "Alien-v0"])
@pytest.mark.parametrize(
    ("protocol", "training", "options"),
    [
        ("paper", True, {"sticky": 0.0, "noops_max": 29, "life_loss_ends": True, "resize": "bilinear"}),
        ("paper", False, {"sticky": 0.0, "noops_max": 29, "life_loss_ends": False, "resize": "bilinear"}),
        ("machado", True, {"sticky": 0.25, "noops_max": 0, "life_loss_ends": False, "resize": "area"}),
        ("machado", False, {"sticky": 0.25, "noops_max": 0, "life_loss_ends": False, "resize": "area"}),
    ],
)
def test_the_protocol_overrides_the_registered_settings(
    env: str, protocol: Any, training: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: dict[str, Any] = {}
    monkeypatch.setattr(seer_edge.envs.atari, "Atari", lambda env_id, **given: built.update(given, id=env_id))
    make_env(env, EnvOptions(protocol, resolution=42, action_repeat=8), seed=7, training=training)
    given = {"id": resolve(env), "seed": 7, "resolution": 42, "blank_at_lost_life": False, "kwargs": None}
    assert built == {**given, **options}
    asked = {"resize": "area" if protocol == "paper" else "bilinear", "blank_at_lost_life": True}
    make_env(env, EnvOptions(protocol, **asked), seed=7, training=training)
    assert {name: built[name] for name in asked} == asked


def test_the_emulator_uses_the_protocol_and_not_the_registered_kwargs() -> None:
    env = _atari("Alien-v0")
    assert env._emulator.ale.getFloat("repeat_action_probability") == 0.0
    assert env._emulator.ale.getInt("max_num_frames_per_episode") == 108_000
    assert env.spec == EnvSpec("Alien-v0", "Alien", (84, 84), (84, 84), Discrete(18))
    env.reset()
    env.step(0)
    assert env._emulator.ale.getEpisodeFrameNumber() == 4


def test_the_resolution_sets_the_frame_size() -> None:
    env = _atari("Alien", resolution=42)
    assert env.spec == EnvSpec("ALE/Alien-v5", "Alien", (42, 42), (42, 42), Discrete(18))
    env.reset()
    screen = cv2.resize(env._emulator.ale.getScreenGrayscale(), (42, 42), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(env.reset(), screen)
    assert env.step(0).frame.shape == (42, 42)
    assert [_atari("Alien", resolution=edge).reset().shape for edge in (16, 210)] == [(16, 16), (210, 210)]


@pytest.mark.parametrize("resolution", [0, 15, 211])
def test_a_resolution_out_of_range_is_rejected(resolution: int) -> None:
    with pytest.raises(ResolutionError, match=f"^resolution {resolution} is out of range; use 16 to 210 pixels$"):
        make_env("Alien", EnvOptions(resolution=resolution), seed=0, training=True)


def test_an_unknown_protocol_is_rejected() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'nature'; use paper or machado"):
        make_env("Alien", EnvOptions(protocol="nature"), seed=0, training=True)  # type: ignore[arg-type]


def test_a_step_before_reset_is_rejected() -> None:
    with pytest.raises(RuntimeError, match="reset the environment"):
        _atari("Alien").step(0)


@pytest.mark.parametrize(
    ("env", "protocol", "replaced"),
    [
        ("Alien", "paper", {}),
        ("ALE/Alien-v5", "machado", {}),
        ("ALE/Alien-v5", "paper", {"repeat_action_probability": (0.25, 0.0)}),
        ("Alien-v0", "machado", {"frameskip": ((2, 5), 4)}),
        ("Alien-v0", "paper", {"frameskip": ((2, 5), 4), "repeat_action_probability": (0.25, 0.0)}),
    ],
)
def test_registered_options_that_the_protocol_replaces_are_named(env: str, protocol: Any, replaced: Any) -> None:
    assert replaced_options(env, EnvOptions(protocol)) == replaced
