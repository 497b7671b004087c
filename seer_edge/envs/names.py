"""Resolve the name that a user gives to an environment, without building the environment."""

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seer_edge.envs.control_tasks import TASKS
from seer_edge.envs.families import FAMILIES
from seer_edge.envs.isolation import run_once
from seer_edge.errors import message_of
from seer_edge.validation import nearest
from seer_runtime.system.user_modules import import_user_module

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec as Registered

INSTALL_HINT = "pip install 'seer-edge[atari]'"

_VERSION = re.compile(r"-v\d+$")
_RAM = re.compile(r"-ram(NoFrameskip|Deterministic)?(-v\d+)?$", re.IGNORECASE)
_CONTROL = re.compile(r"dm_control/(.+?)(-v0)?", re.IGNORECASE)
# Similarity of "cartpole" to its tasks' names; "nope" and "Gopher" are less similar.
_NEAR = 0.65
_VALID = "write an Atari name such as Alien, a control task such as walker-walk, a Gymnasium id or module:EnvId"


class EnvError(ValueError):
    """The environment cannot be used. The message is one line that names it and says what to do."""


class UnknownEnvError(EnvError):
    """No environment has this name."""


class UnsupportedEnvError(EnvError):
    """The environment exists, but seer-edge cannot learn from it."""


class ViewError(UnsupportedEnvError):
    """The environment does not offer the requested kind of image; `hint` names the flag of `train` to change."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(f"{reason}; {hint}" if hint else reason)
        self.reason = reason


class UnavailableEnvError(EnvError):
    """A package, module or library that the environment needs is missing or broken."""


class ResolutionError(EnvError):
    """The environment has no frames of the requested resolution."""


@dataclass(frozen=True)
class EnvId:
    """A resolved environment.

    For the kind "atari" frames come directly from the emulator. The protocol then replaces the registered frame skip
    and sticky actions.
    """

    id: str  # resolves to this environment again
    name: str  # short, and valid as a file name
    registered: str  # the id in Gymnasium's registry (`id` without its module), or the Control Suite's domain/task
    kind: str  # "atari", "control", "gymnasium", or the name of a registered family


def resolve(env: str) -> EnvId:
    """Return the environment that the name `env` stands for.

    `env` may be a control task (with or without `dm_control/`), a bare Atari name, a Gymnasium id, or `module:EnvId`,
    whose module is imported first. A class of the module may stand for the id, and the path of a file for the module.
    Case and punctuation of task and Atari names do not matter. Control tasks resolve without dm_control, which is
    imported when one is built.

    Raises UnknownEnvError, UnsupportedEnvError or UnavailableEnvError.
    """
    family, _, own = env.partition("/")
    if family in FAMILIES:
        return _of_family(family, own)
    env = _as_module(env)
    module, _, registered = env.rpartition(":")
    prefixed = _CONTROL.fullmatch(env)
    task = _control_tasks().get(_key(prefixed[1] if prefixed else env))
    if task is not None and not module:
        return task
    try:
        import gymnasium
    except ImportError as error:
        hint = "pip install gymnasium" if module else INSTALL_HINT
        raise UnavailableEnvError(f"environment {env!r} needs gymnasium ({error}): {hint}") from error
    try:
        import ale_py
    except ImportError as error:
        missing_ale: ImportError | None = error
    else:
        missing_ale = None
        gymnasium.register_envs(ale_py)

    imported = _import(module, env) if module else None
    if imported is not None:
        registered = _register_class(imported, registered)
    registry = gymnasium.registry
    games = {_key(known.name): known for known in registry.values() if _is_game(known)}
    if registered in registry:
        return _identify(env, registry[registered], games)
    if imported is not None:
        reason = _not_an_environment(imported, registered) or (
            f"{module} registers no {registered!r} and has no environment class of that name; "
            f"{_nearest(registered, list(registry.values()))}"
        )
        raise UnknownEnvError(f"unknown environment {env!r}: {reason}")
    if (game := games.get(_key(env))) is not None:
        return _identify(game.id, game, games)
    if _RAM.search(env):
        raise _ram_error(env)
    if missing_ale is not None:
        raise UnavailableEnvError(
            f"unknown environment {env!r}; {_nearest(env, list(registry.values()))}; "
            f"for Atari, ale-py is needed ({missing_ale}): {INSTALL_HINT}"
        ) from missing_ale
    raise UnknownEnvError(f"unknown environment {env!r}; {_nearest(env, list(registry.values()))}")


def is_bare_name(env: str, env_id: EnvId) -> bool:
    """Return whether `env` names an Atari game without a version or a namespace."""
    return _key(env) == _key(env_id.name)


def _of_family(family: str, name: str) -> EnvId:
    names = FAMILIES[family].names
    if name not in names:
        hint = nearest(f"{family}/{name}", [f"{family}/{known}" for known in names])
        raise UnknownEnvError(f"unknown environment '{family}/{name}'; {hint}")
    return EnvId(f"{family}/{name}", re.sub(r"[^\w.-]+", "-", f"{family}-{name}"), name, family)


def _key(name: str) -> str:
    """Drop case and punctuation, so that "bank-heist", "BankHeist" and the ROM's "bank_heist" are equal."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _control_tasks() -> dict[str, EnvId]:
    """Return every task of the Control Suite, by `_key` of domain and task."""
    ids = (
        EnvId(
            f"dm_control/{domain}-{task}-v0",
            f"{domain}-{task}".replace("_", "-").lower(),
            f"{domain}/{task}",
            "control",
        )
        for domain, tasks in TASKS.items()
        for task in tasks
    )
    return {_key(env_id.name): env_id for env_id in ids}


def _as_module(env: str) -> str:
    """Return `module:Class` for `path/to/module.py:Class` with a path below the working directory.

    Raises UnknownEnvError for another path to a file.
    """
    file, _, name = env.rpartition(":")
    if not file.endswith(".py"):
        return env
    path = Path(os.path.relpath(file))
    if path.is_absolute() or ".." in path.parts:
        raise UnknownEnvError(
            f"environment {env!r}: {file} is outside the working directory; change to its folder and write "
            f"{path.stem}:{name}"
        )
    return f"{'.'.join(path.with_suffix('').parts)}:{name}"


def _import(module: str, env: str) -> ModuleType:
    try:
        return run_once(import_user_module, module)
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        reason = f"module {module!r} cannot be imported: {type(error).__name__}: {message_of(error)}"
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            hint = "seer-edge looks for the module in the working directory"
            raise UnknownEnvError(f"environment {env!r}: {reason}; {hint}") from error
        # A resumed run is tried again where the module may work later, for example once a camera is plugged in.
        kind = UnknownEnvError if isinstance(error, SyntaxError) else UnavailableEnvError
        raise kind(f"environment {env!r}: {reason}") from error


def _register_class(module: ModuleType, name: str) -> str:
    """Return the registered id that `name` stands for: itself, or a new one of the environment class of that name.

    A name can come from an untrusted bundle, so nothing else is called, such as `subprocess:run`.
    """
    import gymnasium

    made: Any = getattr(module, name, None)
    is_environment = isinstance(made, type) and issubclass(made, gymnasium.Env)
    if name in gymnasium.registry or not is_environment:
        return name
    namespace = re.sub(r"[^\w-]+", "-", module.__name__)
    env_id = f"{namespace}/{name}"
    known = gymnasium.registry.get(env_id)
    if known is None or known.entry_point is not made:
        gymnasium.registry.pop(env_id, None)  # of another module, whose name is similar
        gymnasium.register(env_id, made)
    return env_id


def _not_an_environment(module: ModuleType, name: str) -> str:
    """Say what the `name` of a module is, if it is something other than an environment."""
    made: Any = getattr(module, name, None)
    if made is None:
        return ""
    what = "another class" if isinstance(made, type) else f"of type {type(made).__name__}"
    return f"{name} is {what}; name a class that derives from gymnasium.Env, or an id that {module.__name__} registers"


def _is_atari(known: "Registered") -> bool:
    # A registration with wrappers or continuous actions is built by Gymnasium: the bare emulator would lose them.
    plain = not known.additional_wrappers and not known.kwargs.get("continuous")
    return known.entry_point == "ale_py.env:AtariEnv" and plain


def _is_ram(known: "Registered") -> bool:
    return _is_atari(known) and known.kwargs.get("obs_type") == "ram"


def _is_game(known: "Registered") -> bool:
    """Return whether `known` is the registration that a bare Atari name stands for."""
    return known.namespace == "ALE" and _is_atari(known) and not _is_ram(known)


def _identify(env: str, known: "Registered", games: dict[str, "Registered"]) -> EnvId:
    if _is_ram(known):
        raise _ram_error(env)
    if _is_atari(known):
        game = games.get(_key(known.kwargs["game"]), known)
        return EnvId(env, game.name, known.id, "atari")
    return EnvId(env, re.sub(r"[^\w.-]+", "-", known.id.rpartition("/")[2]), known.id, "gymnasium")


def _ram_error(env: str) -> UnsupportedEnvError:
    return UnsupportedEnvError(f"environment {env!r} observes RAM, not images; name the game without -ram")


def _nearest(env: str, known: "list[Registered]") -> str:
    tasks = _control_tasks().values()
    if "/" in env or _VERSION.search(env):
        names = [spec.id for spec in known if not _is_ram(spec)] + [task.id for task in tasks]
    else:
        names = [spec.name if _is_game(spec) else spec.id for spec in known if _is_game(spec) or not _is_atari(spec)]
        names += [task.name for task in tasks]
    by_key = {_key(name): name for name in names}
    near = difflib.get_close_matches(_key(env), by_key, n=3, cutoff=_NEAR)
    valid = f"{_VALID}, or load the module that adds it with --plugin" if "/" in env else _VALID
    return f"nearest: {', '.join(by_key[key] for key in near)}; {valid}" if near else valid
