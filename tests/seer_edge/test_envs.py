import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, ClassVar

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AtariPreprocessing
from numpy.typing import NDArray

import seer_edge.envs.atari
from seer_edge.envs import (
    EnvError,
    EnvSpec,
    Episode,
    UnavailableEnvError,
    UnknownEnvError,
    UnsupportedEnvError,
    make_env,
    resolve,
)
from seer_edge.envs.atari import Atari
from seer_edge.envs.gym_pixels import GymPixels

Frame = NDArray[np.uint8]


def _atari(game: str, seed: int = 1, **options: Any) -> Atari:
    return Atari(resolve(game), **{"seed": seed, "sticky": 0.0, "noops_max": 0, "life_loss_ends": False, **options})


def _actions(count: int, steps: int, seed: int = 0) -> list[int]:
    return [int(action) for action in np.random.default_rng(seed).integers(count, size=steps)]


def _rollout(env: Any, steps: int) -> tuple[Frame, list[float]]:
    """Frames [steps + 1, 84, 84] and raw rewards of random actions, without a reset on the way."""
    frames, rewards = [env.reset()], []
    for action in _actions(env.spec.action_count, steps):
        step = env.step(action)
        frames.append(step.frame)
        rewards.append(step.reward)
    return np.stack(frames), rewards


# Names


@pytest.mark.parametrize(
    ("env", "full_id", "name"),
    [
        ("Alien", "ALE/Alien-v5", "Alien"),
        ("alien", "ALE/Alien-v5", "Alien"),
        ("ALIEN", "ALE/Alien-v5", "Alien"),
        ("BankHeist", "ALE/BankHeist-v5", "BankHeist"),
        ("bank-heist", "ALE/BankHeist-v5", "BankHeist"),
        ("bank_heist", "ALE/BankHeist-v5", "BankHeist"),
        ("Bank Heist", "ALE/BankHeist-v5", "BankHeist"),
        ("up-n-down", "ALE/UpNDown-v5", "UpNDown"),
        ("ms_pacman", "ALE/MsPacman-v5", "MsPacman"),
        ("tic-tac-toe-3d", "ALE/TicTacToe3D-v5", "TicTacToe3D"),
        ("blackjack", "ALE/Blackjack-v5", "Blackjack"),
        ("ALE/Alien-v5", "ALE/Alien-v5", "Alien"),
        ("Alien-v4", "Alien-v4", "Alien"),
        ("AlienNoFrameskip-v4", "AlienNoFrameskip-v4", "Alien"),
        ("ale_py:ALE/Alien-v5", "ale_py:ALE/Alien-v5", "Alien"),
    ],
)
def test_atari_names(env: str, full_id: str, name: str) -> None:
    found = resolve(env)
    assert (found.id, found.name, found.atari) == (full_id, name, True)
    assert resolve(found.id) == found


def test_other_registered_ids_stay_as_they_are() -> None:
    found = resolve("CarRacing-v3")
    assert (found.id, found.name, found.atari) == ("CarRacing-v3", "CarRacing-v3", False)
    assert resolve("Blackjack-v1").id == "Blackjack-v1"
    assert resolve("phys2d/CartPole-v1").name == "CartPole-v1"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ("Alein", "unknown environment 'Alein'; nearest: Alien"),
        ("brekout", "unknown environment 'brekout'; nearest: Breakout"),
        ("ALE/Alein-v5", "unknown environment 'ALE/Alein-v5'; nearest: ALE/Alien-v5"),
        ("ale/alien-v5", "unknown environment 'ale/alien-v5'; nearest: ALE/Alien-v5"),
        ("CarRacing-v9", "unknown environment 'CarRacing-v9'; nearest: CarRacing-v3"),
        ("", "unknown environment ''; write an Atari name such as Alien, a Gymnasium id or module:EnvId"),
        ("zzz\nq", r"unknown environment 'zzz\nq'; write an Atari name such as Alien, a Gymnasium id or module:EnvId"),
        ("ale_py:ALE/Alein-v5", "unknown environment 'ale_py:ALE/Alein-v5': importing ale_py registers no"),
    ],
)  # fmt: skip
def test_unknown_names_are_answered_with_the_nearest(env: str, message: str) -> None:
    with pytest.raises(UnknownEnvError) as caught:
        resolve(env)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env", ["Alien-ram-v4", "Alien-ramNoFrameskip-v4", "ALE/Alien-ram-v5", "alien-ram"])
def test_ram_is_refused(env: str) -> None:
    with pytest.raises(UnsupportedEnvError, match=f"environment '{env}' observes RAM, not images"):
        resolve(env)


def test_ram_is_refused_under_whatever_id_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(monkeypatch, "Hidden-v0", entry_point="ale_py.env:AtariEnv", kwargs={"game": "alien", "obs_type": "ram"})
    with pytest.raises(UnsupportedEnvError, match="environment 'Hidden-v0' observes RAM, not images"):
        resolve("Hidden-v0")

    options = {"game": "alien", "obs_type": "ram"}
    _register(monkeypatch, "ALE/Alien-ram-v5", entry_point="ale_py.env:AtariEnv", kwargs=options)
    with pytest.raises(UnknownEnvError) as caught:
        resolve("Alein")
    assert "ram" not in str(caught.value)


def test_an_atari_game_registered_with_wrappers_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(
        monkeypatch,
        "Wrapped-v0",
        entry_point="ale_py.env:AtariEnv",
        kwargs={"game": "alien"},
        additional_wrappers=(gymnasium.wrappers.ClipReward.wrapper_spec(min_reward=-1, max_reward=1),),
    )
    assert not resolve("Wrapped-v0").atari


@pytest.mark.parametrize(
    "env",
    ["cartpole-swingup", "ball_in_cup-catch", "ball-in-cup-catch", "Walker_walk", "dm_control/walker-walk-v0"],
)
def test_control_tasks_are_refused_by_name(env: str) -> None:
    with pytest.raises(UnsupportedEnvError, match=f"^control task '{env}' is not built yet"):
        resolve(env)


def test_a_module_registers_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seer_test_dots.py").write_text(
        "import gymnasium\ngymnasium.register('test/Dots-v0', entry_point='seer_test_dots:Dots')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = resolve("seer_test_dots:test/Dots-v0")
        assert (found.id, found.name, found.atari) == ("seer_test_dots:test/Dots-v0", "Dots-v0", False)
        assert found.registered == "test/Dots-v0"
        with pytest.raises(UnknownEnvError, match=r"registers no 'test/Dot-v0'; nearest: test/Dots-v0"):
            resolve("seer_test_dots:test/Dot-v0")
    finally:
        gymnasium.registry.pop("test/Dots-v0", None)
        sys.modules.pop("seer_test_dots", None)


def test_a_broken_module_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seer_test_broken.py").write_text("raise RuntimeError('first\\nsecond')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnavailableEnvError) as caught:
        resolve("seer_test_broken:Dots-v0")
    assert str(caught.value) == (
        "environment 'seer_test_broken:Dots-v0': module 'seer_test_broken' cannot be imported: "
        "RuntimeError: first second"
    )
    with pytest.raises(UnavailableEnvError, match="ModuleNotFoundError: No module named 'seer_test_absent'"):
        resolve("seer_test_absent:Dots-v0")


def _fresh(code: str) -> str:
    """What `code` prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(("missing", "needs"), [("gymnasium", "needs gymnasium"), ("ale_py", "ale-py is needed")])
def test_a_missing_package_is_answered_with_what_to_install(missing: str, needs: str) -> None:
    said = _fresh(f"""
        import sys
        sys.modules[{missing!r}] = None
        from seer_edge.envs import UnavailableEnvError, resolve
        try:
            resolve("Alien")
        except UnavailableEnvError as error:
            print(error)
        """)
    assert needs in said
    assert said.endswith("pip install 'seer-edge[atari]'\n")
    assert said.count("\n") == 1


def test_the_import_is_cheap_resolving_needs_no_torch_and_the_emulator_is_silent() -> None:
    said = _fresh("""
        import sys
        import seer_edge.envs as envs
        print([name for name in ("gymnasium", "ale_py", "cv2", "torch") if name in sys.modules])
        envs.resolve("alien")
        print("cv2" in sys.modules)
        envs.make_env("alien", protocol="paper", seed=0, training=True).reset()
        print("torch" in sys.modules)
        """)
    assert said == "[]\nFalse\nFalse\n"


# Atari


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
    assert ours.spec.action_count == theirs.action_space.n  # type: ignore[attr-defined]
    np.testing.assert_array_equal(ours.reset(), theirs.reset(seed=5)[0])
    games, scored = 0, 0.0
    for action in _actions(ours.spec.action_count, steps):
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


def test_frames_belong_to_the_caller() -> None:
    env = _atari("Alien")
    env.reset()
    first = env.step(1).frame
    kept = first.copy()
    for action in _actions(18, 20):
        env.step(action)
    np.testing.assert_array_equal(first, kept)


def test_a_lost_life_ends_the_episode_and_the_game_goes_on() -> None:
    env = _atari("Alien", life_loss_ends=True)
    ale = env._ale
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
            assert ale.getEpisodeFrameNumber() == frames_before + 1
            assert ale.lives() == lives_seen[-1]
            screen = cv2.resize(ale.getScreenGrayscale(), (84, 84), interpolation=cv2.INTER_AREA)
            np.testing.assert_array_equal(frame, screen)
    assert step.terminated
    assert step.episode == Episode(total, length)
    assert lives_seen == [3, 2, 1]
    assert after_loss > 0

    env.reset()
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


def test_a_reset_within_a_life_or_after_a_fatal_noop_begins_a_new_game(monkeypatch: pytest.MonkeyPatch) -> None:
    env = _atari("Alien", life_loss_ends=True)
    env.reset()
    for action in _actions(18, 1500):
        if env.step(action).terminated:
            break
    assert env._ale.lives() == 2
    env.reset()
    assert env._ale.lives() == 2
    env.reset()
    assert env._ale.lives() == 3

    for action in _actions(18, 1500):
        if env.step(action).terminated:
            break
    monkeypatch.setattr(env, "_survives_noop", lambda: False)
    env.reset()
    assert env._ale.lives() == 3
    assert env._ale.getEpisodeFrameNumber() == 0


class _Lives:
    """An emulator that shows the lives it is told to."""

    def __init__(self, ale: Any, lives: list[int]) -> None:
        self._ale, self._lives = ale, lives

    def lives(self) -> int:
        return self._lives.pop(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ale, name)


def test_zero_lives_before_the_game_is_over_is_the_games_own_end() -> None:
    env = _atari("Alien", life_loss_ends=True)
    env._ale = _Lives(env._ale, [2, 1, 1, 0, 0])  # type: ignore[assignment]
    env.reset()
    assert env.step(0).terminated
    env.reset()
    assert not env.step(0).terminated
    assert not env.step(0).terminated


@pytest.mark.parametrize("frames_max", [40, 41, 43])
def test_the_time_limit_truncates_with_the_last_screen(frames_max: int) -> None:
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
    assert env._ale.getEpisodeFrameNumber() == 0
    assert not env.step(0).truncated


def test_games_begin_with_every_number_of_noops_up_to_the_greatest() -> None:
    env = _atari("Alien", noops_max=2)
    counts = set()
    for _ in range(20):
        env.reset()
        counts.add(env._ale.getEpisodeFrameNumber())
    assert counts == {0, 1, 2}


def test_the_seed_gives_the_trajectory() -> None:
    def play(seed: int) -> tuple[Frame, list[float]]:
        return _rollout(make_env("Alien", protocol="paper", seed=seed, training=False), 60)

    frames, rewards = play(3)
    again, rewards_again = play(3)
    np.testing.assert_array_equal(frames, again)
    assert rewards == rewards_again
    assert not np.array_equal(frames, play(4)[0])


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
    env = make_env("Breakout", protocol="machado", seed=1, training=True)
    assert isinstance(env, Atari)
    ale = env._ale
    assert ale.getFloat("repeat_action_probability") == 0.25
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
        ("paper", True, {"sticky": 0.0, "noops_max": 29, "life_loss_ends": True}),
        ("paper", False, {"sticky": 0.0, "noops_max": 29, "life_loss_ends": False}),
        ("machado", True, {"sticky": 0.25, "noops_max": 0, "life_loss_ends": False}),
        ("machado", False, {"sticky": 0.25, "noops_max": 0, "life_loss_ends": False}),
    ],
)
def test_the_protocol_decides_whatever_the_id_says(
    env: str, protocol: Any, training: bool, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    built: dict[str, Any] = {}
    monkeypatch.setattr(seer_edge.envs.atari, "Atari", lambda env_id, **given: built.update(given, id=env_id))
    make_env(env, protocol=protocol, seed=7, training=training)
    assert built == {"id": resolve(env), "seed": 7, **options}


def test_the_emulator_gets_the_protocol_and_not_the_registered_kwargs() -> None:
    env = _atari("Alien-v0")
    assert env._ale.getFloat("repeat_action_probability") == 0.0
    assert env._ale.getInt("max_num_frames_per_episode") == 108_000
    assert env.spec == EnvSpec("Alien-v0", "Alien", (84, 84), 18)
    env.reset()
    env.step(0)
    assert env._ale.getEpisodeFrameNumber() == 4


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown protocol 'nature'; write paper or machado"):
        make_env("Alien", protocol="nature", seed=0, training=True)  # type: ignore[arg-type]


def test_step_before_reset_is_refused() -> None:
    with pytest.raises(RuntimeError, match="reset the environment"):
        _atari("Alien").step(0)


# Pixel environments of the user's own


class _Screens(gymnasium.Env[Any, Any]):
    """Random screens in one reused buffer; `ends` is what the third step of an episode reports."""

    ends: ClassVar[tuple[bool, bool]] = (True, False)

    def __init__(self, shape: tuple[int, ...] = (20, 30), dtype: Any = np.uint8, actions: Any = None) -> None:
        self.observation_space = gymnasium.spaces.Box(0, 255, shape, dtype)
        self.action_space = actions or gymnasium.spaces.Discrete(3, start=5)
        self.screen = np.zeros(shape, dtype)
        self.taken: list[int] = []

    def _draw(self) -> Any:
        self.screen[...] = self.np_random.integers(256, size=self.screen.shape)
        return self.screen

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = []
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(int(action))
        terminated, truncated = self.ends if len(self.taken) == 3 else (False, False)
        return self._draw(), -2.5, terminated, truncated, {}


def _register(monkeypatch: pytest.MonkeyPatch, env_id: str, **options: Any) -> None:
    from gymnasium.envs.registration import EnvSpec as Registered

    monkeypatch.setitem(gymnasium.registry, env_id, Registered(env_id, **options))


def _pixels(monkeypatch: pytest.MonkeyPatch, seed: int = 0, **kwargs: Any) -> GymPixels:
    _register(monkeypatch, "test/Screens-v0", entry_point=_Screens, kwargs=kwargs)
    env = make_env("test/Screens-v0", protocol="paper", seed=seed, training=True)
    assert isinstance(env, GymPixels)
    return env


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("shape", "frame_shape"),
    [
        ((20, 30), (20, 30)),
        ((20, 30, 1), (20, 30)),
        ((20, 30, 3), (20, 30)),
        ((84, 84), (84, 84)),
        ((85, 20), (84, 84)),
        ((20, 85, 3), (84, 84)),
        ((168, 168), (84, 84)),
    ],
)
def test_pixels_are_gray_and_no_larger_than_84(
    shape: tuple[int, ...], frame_shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    env = _pixels(monkeypatch, shape=shape)
    assert env.spec == EnvSpec("test/Screens-v0", "Screens-v0", frame_shape, 3)
    frame = env.reset()
    screen: Any = env._env.unwrapped.screen  # type: ignore[attr-defined]
    gray = cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY) if shape[2:] == (3,) else screen.reshape(shape[:2])
    if frame_shape == (84, 84):
        gray = cv2.resize(gray, (84, 84), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(frame, gray)
    assert frame.dtype == np.uint8
    kept = frame.copy()
    env.step(0)
    np.testing.assert_array_equal(frame, kept)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("ends", "seen"),
    [((True, False), (True, False)), ((False, True), (False, True)), ((True, True), (True, False))],
)
def test_pixel_episodes(ends: tuple[bool, bool], seen: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Screens, "ends", ends)
    env = _pixels(monkeypatch)
    for _ in range(2):
        env.reset()
        steps = [env.step(action) for action in (0, 1, 2)]
        assert env._env.unwrapped.taken == [5, 6, 7]  # type: ignore[attr-defined]
        assert [(step.terminated, step.truncated) for step in steps] == [(False, False)] * 2 + [seen]
        assert [step.reward for step in steps] == [-2.5] * 3
        assert [step.episode for step in steps] == [None, None, Episode(-7.5, 3)]
        with pytest.raises(RuntimeError, match="reset the environment"):
            env.step(0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pixels_are_seeded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_starts(seed: int) -> tuple[Frame, Frame]:
        env = _pixels(monkeypatch, seed)
        return env.reset(), env.reset()

    first, second = two_starts(1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal((first, second), two_starts(1))
    assert not np.array_equal(first, two_starts(2)[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shape": (4,)}, "observes Box.*uint8 images"),
        ({"shape": (8, 8, 4)}, "observes Box.*uint8 images"),
        ({"shape": (8, 8), "dtype": np.float32}, "observes Box.*uint8 images"),
        ({"actions": gymnasium.spaces.Box(-1.0, 1.0, (2,))}, "has Box.*for actions; discrete ones are needed"),
    ],
)
def test_what_is_not_pixels_or_not_discrete_is_refused(
    kwargs: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedEnvError, match=f"environment 'test/Screens-v0' {message}") as caught:
        _pixels(monkeypatch, **kwargs)
    assert "\n" not in str(caught.value)


def test_continuous_atari_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _register(
        monkeypatch, "Joystick-v0", entry_point="ale_py.env:AtariEnv", kwargs={"game": "alien", "continuous": True}
    )
    with pytest.raises(UnsupportedEnvError, match=r"environment 'Joystick-v0' has Box.*discrete ones are needed"):
        make_env("Joystick-v0", protocol="paper", seed=0, training=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_screen_that_breaks_the_promise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    env = _pixels(monkeypatch)
    env.reset()
    env._env.unwrapped.screen = np.zeros((20, 31), np.uint8)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"promised uint8 \[20, 30\] and showed uint8 \[20, 31\]"):
        env.step(0)


def test_an_environment_that_lacks_a_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks() -> None:
        raise gymnasium.error.DependencyNotInstalled("no box2d,\nrun pip install box2d")

    _register(monkeypatch, "Lacking-v0", entry_point=lacks)
    with pytest.raises(UnavailableEnvError) as caught:
        make_env("Lacking-v0", protocol="paper", seed=0, training=True)
    assert str(caught.value) == "environment 'Lacking-v0' cannot be built: no box2d, run pip install box2d"


def test_every_refusal_is_one_kind_of_error() -> None:
    for kind in (UnknownEnvError, UnsupportedEnvError, UnavailableEnvError):
        assert issubclass(kind, EnvError)
    assert issubclass(EnvError, ValueError)
