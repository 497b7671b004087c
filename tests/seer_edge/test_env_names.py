import os
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium
import pytest

from seer_edge.envs import EnvError, UnavailableEnvError, UnknownEnvError, UnsupportedEnvError, resolve
from tests.seer_edge.env_registry import register


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
    register(monkeypatch, "Hidden-v0", entry_point="ale_py.env:AtariEnv", kwargs={"game": "alien", "obs_type": "ram"})
    with pytest.raises(UnsupportedEnvError, match="environment 'Hidden-v0' observes RAM, not images"):
        resolve("Hidden-v0")

    options = {"game": "alien", "obs_type": "ram"}
    register(monkeypatch, "ALE/Alien-ram-v5", entry_point="ale_py.env:AtariEnv", kwargs=options)
    with pytest.raises(UnknownEnvError) as caught:
        resolve("Alein")
    assert "ram" not in str(caught.value)


def test_an_atari_game_registered_with_wrappers_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    register(
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


def test_every_refusal_is_one_kind_of_error() -> None:
    for kind in (UnknownEnvError, UnsupportedEnvError, UnavailableEnvError):
        assert issubclass(kind, EnvError)
    assert issubclass(EnvError, ValueError)
