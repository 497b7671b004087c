"""Saved states of Atari games: a restored game continues bit for bit."""

import json
import zlib
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer_edge.envs import EnvOptions, make_env, resolve
from seer_edge.envs.atari import Atari
from seer_runtime.system.state import State, StateError
from tests.seer_edge.env_registry import fresh
from tests.seer_edge.env_twins import assert_continue_alike, changed, play, through_files

pytestmark = pytest.mark.integration

PAPER = {"sticky": 0.0, "noops_max": 29, "life_loss_ends": True}
MACHADO = {"sticky": 0.25, "noops_max": 0, "life_loss_ends": False}


def atari(game: str = "Alien", seed: int = 1, **options: Any) -> Atari:
    return Atari(resolve(game), **{"seed": seed, **PAPER, **options})


@pytest.mark.parametrize("protocol", [PAPER, MACHADO], ids=["paper", "machado"])
def test_a_restored_game_continues_across_lives_and_games(protocol: dict[str, Any], tmp_path: Path) -> None:
    env, actions = atari(**protocol), np.random.default_rng(0)
    env.reset()
    ends = 0
    for lead in (0, 150, 77):
        play(env, actions, lead)
        twin = atari(seed=99, **protocol)
        if lead > 100:  # restore into an environment that has been used
            twin.reset()
            play(twin, np.random.default_rng(5), 30)
        twin.restore(through_files(env.state(), tmp_path))
        ends += sum(step.episode is not None for step in assert_continue_alike(env, twin, 400, seed=lead))
    assert ends >= 2


@pytest.fixture(scope="module")
def steps_to_a_lost_life() -> int:
    scout, actions = atari(), np.random.default_rng(0)
    scout.reset()
    steps = [scout.step(scout.spec.actions.sample(actions))]
    while not steps[-1].terminated:
        steps.append(scout.step(scout.spec.actions.sample(actions)))
    assert steps[-1].episode is None
    return len(steps)


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_game_can_be_saved_around_a_lost_life(offset: int, steps_to_a_lost_life: int, tmp_path: Path) -> None:
    env, actions = atari(), np.random.default_rng(0)
    env.reset()
    for _ in range(steps_to_a_lost_life + min(offset, 0)):
        env.step(env.spec.actions.sample(actions))
    twin = atari(seed=7)
    if offset > 0:
        env.reset()
    twin.restore(through_files(env.state(), tmp_path))
    if offset == 0:
        with pytest.raises(RuntimeError, match="reset the environment"):
            twin.step(0)
        np.testing.assert_array_equal(env.reset(), twin.reset())
        assert twin._emulator.ale.lives() == 2
    assert_continue_alike(env, twin, 150)


@pytest.mark.parametrize("lead", [9, 10, 11])
def test_a_game_can_be_saved_around_the_time_limit(lead: int, tmp_path: Path) -> None:
    env, twin = (atari(seed=seed, noops_max=0, game_frames_max=43) for seed in (1, 8))
    env.reset()
    steps = [env.step(action) for action in np.random.default_rng(0).integers(18, size=lead)]
    assert steps[-1].truncated == (lead == 11)
    twin.restore(through_files(env.state(), tmp_path))
    if lead == 11:
        np.testing.assert_array_equal(twin.reset(), env.reset())
    assert sum(step.truncated for step in assert_continue_alike(env, twin, 25)) >= 2


def test_a_state_from_before_the_first_reset_restores_the_seed(tmp_path: Path) -> None:
    env, twin = atari(seed=3, sticky=0.25), atari(seed=4, sticky=0.25)
    twin.restore(through_files(env.state(), tmp_path))
    np.testing.assert_array_equal(env.reset(), twin.reset())
    assert_continue_alike(env, twin, 60)


@pytest.mark.parametrize("lead", [None, 0, 33])
def test_a_restored_environment_saves_the_same_state_again(lead: int | None, tmp_path: Path) -> None:
    env, twin = atari(seed=3, **MACHADO), atari(seed=4, **MACHADO)
    if lead is not None:
        env.reset()
        play(env, np.random.default_rng(0), lead)
    env._held = env._actions[5]
    saved = through_files(env.state(), tmp_path)
    twin.restore(saved)
    again = through_files(twin.state(), tmp_path)
    assert again.values == saved.values
    for name, array in saved.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)


def test_a_state_of_an_earlier_version_has_no_snapshots(saved: State, target: Atari) -> None:
    arrays = {name: array for name, array in saved.arrays.items() if name in {"emulator", "older", "newer"}}
    env, twin = atari(seed=3), atari(seed=4)
    env.restore(saved)
    twin.restore(State(saved.values, arrays))
    assert_continue_alike(env, twin, 60)
    assert twin.state().arrays.keys() == env.state().arrays.keys()


def test_saving_does_not_change_the_trajectory() -> None:
    env, unsaved = atari(sticky=0.25), atari(sticky=0.25)
    env.reset()
    unsaved.reset()
    actions = np.random.default_rng(0)
    for _ in range(100):
        assert env.state() is not None
        action = env.spec.actions.sample(actions)
        np.testing.assert_array_equal(env.step(action).frame, unsaved.step(action).frame)


PROCESS = """
import json, sys, zlib
from pathlib import Path
import numpy as np
from seer_runtime.durable import read_tensors
from seer_runtime.system.state import State
from tests.seer_edge.env_twins import play
from tests.seer_edge.test_env_atari_state import MACHADO, atari
folder = Path({folder!r})
env = atari(seed=12, **MACHADO)
env.restore(State(json.loads((folder / "values.json").read_text()), read_tensors(folder / "env.safetensors")))
steps = play(env, np.random.default_rng(1), 200)
print(zlib.crc32(np.stack([step.frame for step in steps])), sum(step.reward for step in steps))
"""


def test_a_game_continues_identically_in_another_process(tmp_path: Path) -> None:
    env = atari(**MACHADO)
    env.reset()
    play(env, np.random.default_rng(0), 40)
    (tmp_path / "values.json").write_text(json.dumps(through_files(env.state(), tmp_path).values))
    steps = play(env, np.random.default_rng(1), 200)
    seen = zlib.crc32(np.stack([step.frame for step in steps]))
    assert fresh(PROCESS.format(folder=str(tmp_path))) == f"{seen} {sum(step.reward for step in steps)}\n"


@pytest.fixture(scope="module")
def saved() -> State:
    env = atari()
    env.reset()
    play(env, np.random.default_rng(0), 20)
    state = env.state()
    env.close()
    return state


@pytest.fixture(scope="module")
def target() -> Atari:
    """An environment to restore invalid states into, one after the other."""
    return atari()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", "ALE/Breakout-v5"),
        ("env", None),
        ("seed", -1),
        ("seed", "1"),
        ("seed", True),
        ("noops", {"bit_generator": "MT19937"}),
        ("noops", None),
        ("repeats", 3),
        ("held", "RESET"),
        ("held", ["NOOP"]),
        ("lives", 1.5),
        ("lives", -1),
        ("stepping", 1),
        ("between_lives", None),
        ("return", float("nan")),
        ("return", "1"),
        ("return", 10**400),
        ("length_steps", 2**60),
        ("older", np.zeros((210, 161), np.uint8)),
        ("newer", np.zeros((210, 160), np.int8)),
        ("newer", None),
        ("emulator", np.zeros(100_000, np.uint8)),
        ("emulator", np.zeros((2, 100), np.uint8)),
        ("emulator", np.zeros(0, np.uint8)),
        ("emulator", None),
        ("snapshot_3", np.zeros(100, np.uint8)),
        ("snapshot_1", np.zeros((2, 100), np.uint8)),
        ("pressed_0", np.zeros(100_000, np.uint8)),
        ("pressed_1", np.array([18], np.uint8)),
        ("pressed_1", None),
    ],
)
def test_invalid_states_are_rejected(name: str, value: Any, saved: State, target: Atari) -> None:
    with pytest.raises(StateError):
        target.restore(changed(saved, name, value))
    target.restore(saved)


def test_a_renamed_state_of_another_game_is_rejected(saved: State) -> None:
    breakout = atari("Breakout")
    breakout.reset()
    other = changed(breakout.state(), "env", "ALE/Alien-v5")
    with pytest.raises(StateError, match=r"^the state of environment 'ALE/Alien-v5' is invalid: the emulator"):
        atari().restore(other)


@pytest.mark.parametrize("length", [1, 4, 24, 60, 100, 7_000, 14_000])
def test_a_truncated_emulator_state_is_rejected(length: int, saved: State, target: Atari) -> None:
    with pytest.raises(StateError, match="the emulator"):
        target.restore(changed(saved, "emulator", saved.arrays["emulator"][:length]))


@pytest.mark.parametrize("more", [b"", b"x", b"x" * 100])
def test_an_emulator_state_of_another_length_is_rejected(more: bytes, saved: State, target: Atari) -> None:
    whole = saved.arrays["emulator"].tobytes()
    other = whole + more if more else whole[:-1]
    with pytest.raises(StateError, match="the emulator loads only a part of it"):
        target.restore(changed(saved, "emulator", np.frombuffer(other, np.uint8)))


@settings(max_examples=30)
@given(data=st.binary(max_size=16_000))
def test_random_bytes_as_emulator_state_are_rejected(data: bytes, saved: State, target: Atari) -> None:
    with pytest.raises(StateError, match="the emulator"):
        target.restore(changed(saved, "emulator", np.frombuffer(data, np.uint8)))


def _games() -> list[str]:
    gymnasium.register_envs(ale_py)
    known = [spec for spec in gymnasium.registry.values() if spec.namespace == "ALE"]
    return sorted({spec.name for spec in known if spec.kwargs.get("obs_type") != "ram"})


# The first two read the value that the last instruction left on the bus. The emulator does not load the third fully.
# The fourth leaves frames unfinished.
@pytest.mark.parametrize("game", ["Qbert", "Tetris", "MiniatureGolf", "TicTacToe3D"])
def test_unusual_games_continue_after_a_restore(game: str, tmp_path: Path) -> None:
    assert_the_game_continues(game, "paper", tmp_path, leads=(3, 160), steps=120)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["paper", "machado"])
@pytest.mark.parametrize("game", _games())
def test_every_game_continues_after_a_restore(game: str, protocol: Any, tmp_path: Path) -> None:
    assert_the_game_continues(game, protocol, tmp_path)


def assert_the_game_continues(
    game: str, protocol: Any, tmp_path: Path, *, leads: tuple[int, ...] = (3, 50, 160), steps: int = 250
) -> None:
    env = make_env(game, EnvOptions(protocol), seed=3, training=True)
    env.reset()
    for lead in leads:
        play(env, np.random.default_rng(lead), lead)
        twin = make_env(game, EnvOptions(protocol), seed=99, training=True)
        twin.restore(through_files(env.state(), tmp_path))
        assert_continue_alike(env, twin, steps)
        twin.close()
    env.close()
