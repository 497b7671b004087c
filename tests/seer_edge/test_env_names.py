"""Resolution of environment names, and the errors for unknown ones."""

import sys
from pathlib import Path

import gymnasium
import pytest

from seer_edge.envs import EnvError, ResolutionError, UnavailableEnvError, UnknownEnvError, UnsupportedEnvError, resolve
from tests.seer_edge.env_registry import fresh, register

VALID = "write an Atari name such as Alien, a control task such as walker-walk, a Gymnasium id or module:EnvId"


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
def test_atari_names_resolve_in_every_spelling(env: str, full_id: str, name: str) -> None:
    found = resolve(env)
    assert (found.id, found.name, found.kind) == (full_id, name, "atari")
    assert resolve(found.id) == found


def test_other_gymnasium_ids_resolve_unchanged() -> None:
    found = resolve("CarRacing-v3")
    assert (found.id, found.name, found.kind) == ("CarRacing-v3", "CarRacing-v3", "gymnasium")
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
        ("", f"unknown environment ''; {VALID}"),
        ("nope", f"unknown environment 'nope'; {VALID}"),
        ("dots/3", f"unknown environment 'dots/3'; {VALID}, or load the module that adds it with --plugin"),
        ("cartpole", "unknown environment 'cartpole'; nearest: CartPole-v1, "),
        ("zzz\nq", rf"unknown environment 'zzz\nq'; {VALID}"),
        ("cartpole-swingp", "unknown environment 'cartpole-swingp'; nearest: cartpole-swingup, "),
        ("walkerwalkk", f"unknown environment 'walkerwalkk'; nearest: walker-walk; {VALID}"),
        ("dm_control/dog-rn-v0", "unknown environment 'dm_control/dog-rn-v0'; nearest: dm_control/dog-run-v0"),
        ("dm_control/dog-run-v1", "unknown environment 'dm_control/dog-run-v1'; nearest: dm_control/dog-run-v0"),
        ("ale_py:ALE/Alein-v5", "unknown environment 'ale_py:ALE/Alein-v5': ale_py registers no"),
    ],
)  # fmt: skip
def test_unknown_names_are_rejected_with_the_nearest_ones(env: str, message: str) -> None:
    with pytest.raises(UnknownEnvError) as caught:
        resolve(env)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env", ["Alien-ram-v4", "Alien-ramNoFrameskip-v4", "ALE/Alien-ram-v5", "alien-ram"])
def test_ram_environments_are_rejected(env: str) -> None:
    with pytest.raises(UnsupportedEnvError, match=f"environment '{env}' observes RAM, not images"):
        resolve(env)


def test_ram_is_rejected_under_any_registered_id(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert resolve("Wrapped-v0").kind == "gymnasium"


@pytest.mark.parametrize(
    ("env", "full_id", "name"),
    [
        ("cartpole-swingup", "dm_control/cartpole-swingup-v0", "cartpole-swingup"),
        ("Cartpole_Swingup", "dm_control/cartpole-swingup-v0", "cartpole-swingup"),
        ("ball-in-cup-catch", "dm_control/ball_in_cup-catch-v0", "ball-in-cup-catch"),
        ("ball_in_cup-catch", "dm_control/ball_in_cup-catch-v0", "ball-in-cup-catch"),
        ("humanoid CMU run", "dm_control/humanoid_CMU-run-v0", "humanoid-cmu-run"),
        ("dm_control/walker-walk-v0", "dm_control/walker-walk-v0", "walker-walk"),
        ("dm_control/walker-walk", "dm_control/walker-walk-v0", "walker-walk"),
        ("DM_Control/Walker_Walk", "dm_control/walker-walk-v0", "walker-walk"),
    ],
)
def test_control_names_resolve_in_every_spelling(env: str, full_id: str, name: str) -> None:
    found = resolve(env)
    assert (found.id, found.name, found.kind) == (full_id, name, "control")
    assert resolve(found.id) == found


def test_a_module_may_have_the_name_of_a_control_domain() -> None:
    with pytest.raises(UnknownEnvError, match="module 'walker' cannot be imported"):
        resolve("walker:walk")


def test_resolve_imports_the_module_that_registers_an_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seer_test_dots.py").write_text(
        "import gymnasium\ngymnasium.register('test/Dots-v0', entry_point='seer_test_dots:Dots')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        found = resolve("seer_test_dots:test/Dots-v0")
        assert (found.id, found.name, found.kind) == ("seer_test_dots:test/Dots-v0", "Dots-v0", "gymnasium")
        assert found.registered == "test/Dots-v0"
        with pytest.raises(
            UnknownEnvError,
            match=r"registers no 'test/Dot-v0' and has no environment class of that name; nearest: test/Dots-v0",
        ):
            resolve("seer_test_dots:test/Dot-v0")
    finally:
        gymnasium.registry.pop("test/Dots-v0", None)
        sys.modules.pop("seer_test_dots", None)


@pytest.mark.parametrize(("name", "what"), [("make", "of type function"), ("Plain", "another class")])
def test_something_else_of_a_module_is_named(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seer_test_other.py").write_text("class Plain: pass\ndef make(): return Plain()\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(UnknownEnvError, match=f"': {name} is {what}; name a class that derives from"):
            resolve(f"seer_test_other:{name}")
    finally:
        sys.modules.pop("seer_test_other", None)


def test_a_module_that_cannot_be_parsed_will_not_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that resumes a run must end, and not start again for ever."""
    (tmp_path / "seer_test_unfinished.py").write_text("def make(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownEnvError, match="module 'seer_test_unfinished' cannot be imported: SyntaxError: "):
        resolve("seer_test_unfinished:Dots-v0")


def test_a_module_that_fails_to_import_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seer_test_broken.py").write_text("raise RuntimeError('first\\nsecond')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnavailableEnvError) as caught:
        resolve("seer_test_broken:Dots-v0")
    assert str(caught.value) == (
        "environment 'seer_test_broken:Dots-v0': module 'seer_test_broken' cannot be imported: "
        "RuntimeError: first second"
    )
    missing = "No module named 'seer_test_absent'; seer-edge looks for the module in the working directory"
    with pytest.raises(UnknownEnvError, match=f"ModuleNotFoundError: {missing}"):
        resolve("seer_test_absent:Dots-v0")


@pytest.mark.parametrize("statement", ["import seer_test_absent", "raise SystemExit(3)", "raise Unprintable"])
def test_a_module_that_exists_and_fails_is_reported_as_unavailable(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seer_test_failing.py").write_text(f"class Unprintable(Exception):\n    __str__ = None\n{statement}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableEnvError, match="module 'seer_test_failing' cannot be imported") as caught:
        resolve("seer_test_failing:Dots-v0")
    assert "working directory" not in str(caught.value)


@pytest.mark.parametrize(
    ("env", "module"),
    [
        ("./dots-1.py:Dots", "dots-1"),
        ("dots-1.py:Dots", "dots-1"),
        ("{folder}/dots-1.py:Dots", "dots-1"),
        ("pk/sub/dots_2.py:Dots", "pk.sub.dots_2"),
        ("my games/dots_3.py:Dots", "my games.dots_3"),
    ],
)
def test_the_path_of_a_file_is_accepted_for_its_module(
    env: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / (module.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import gymnasium\nclass Dots(gymnasium.Env): pass\n")
    monkeypatch.chdir(tmp_path)
    found = resolve(env.format(folder=tmp_path))
    try:
        assert found.id == f"{module}:Dots"
        assert found.name == "Dots"
        assert resolve(found.id) == found
    finally:
        gymnasium.registry.pop(found.registered)
        for name in (module, "pk", "pk.sub", "my games"):
            sys.modules.pop(name, None)


def test_a_file_outside_the_working_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UnknownEnvError, match="outside the working directory; change to its folder and write dots:D"):
        resolve(f"{tmp_path}/dots.py:D")


def test_modules_with_similar_names_keep_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module in ("dots_5", "dots 5"):
        (tmp_path / f"{module.replace('_', '-')}.py").write_text(
            f"import gymnasium\nclass Dots(gymnasium.Env): module = {module!r}\n"
        )
    try:
        for module in ("dots-5", "dots 5"):
            made = gymnasium.registry[resolve(f"{module}:Dots").registered].entry_point
            assert made is sys.modules[module].Dots
    finally:
        gymnasium.registry.pop("dots-5/Dots")
        for module in ("dots-5", "dots 5"):
            sys.modules.pop(module)


@pytest.mark.parametrize(
    ("missing", "env", "needs", "install"),
    [
        ("gymnasium", "Alien", "needs gymnasium", "pip install 'seer-edge[atari]'"),
        ("ale_py", "Alien", "ale-py is needed", "pip install 'seer-edge[atari]'"),
        ("gymnasium", "robot:Robot", "needs gymnasium", "pip install gymnasium"),
    ],
)
def test_a_missing_package_is_reported_with_the_command_to_install_it(
    missing: str, env: str, needs: str, install: str
) -> None:
    output = fresh(f"""
        import sys
        sys.modules[{missing!r}] = None
        from seer_edge.envs import UnavailableEnvError, resolve
        try:
            resolve({env!r})
        except UnavailableEnvError as error:
            print(error)
        """)
    assert needs in output
    assert output.endswith(f": {install}\n")
    assert output.count("\n") == 1


def test_imports_are_lazy_and_the_emulator_prints_nothing() -> None:
    output = fresh("""
        import sys
        import seer_edge.envs as envs
        print([name for name in ("gymnasium", "ale_py", "dm_control", "cv2", "torch") if name in sys.modules])
        envs.resolve("alien")
        print("cv2" in sys.modules)
        envs.make_env("alien", envs.EnvOptions(), seed=0, training=True).reset()
        print("torch" in sys.modules or "dm_control" in sys.modules or "mujoco" in sys.modules)
        print(envs.resolve("walker-walk").kind, "dm_control" in sys.modules)
        """)
    assert output == "[]\nFalse\nFalse\ncontrol False\n"


def test_all_environment_errors_are_env_errors() -> None:
    for kind in (UnknownEnvError, UnsupportedEnvError, UnavailableEnvError, ResolutionError):
        assert issubclass(kind, EnvError)
    assert issubclass(EnvError, ValueError)


@pytest.mark.parametrize("env", ["subprocess:run", "subprocess:Popen", "os:system", "builtins:exec", "pathlib:Path"])
def test_only_environment_classes_of_a_module_are_built(env: str) -> None:
    """The name can come from an untrusted bundle, with arguments for what it names."""
    with pytest.raises(
        UnknownEnvError, match=f"unknown environment '{env}': .*; name a class that derives from gymnas"
    ):
        resolve(env)
