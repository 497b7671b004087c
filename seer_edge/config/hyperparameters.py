"""Hyperparameters by name: what `--set` may change, and presets as TOML files.

The names are the fields of the preset and of its settings. Types and meanings are read from their annotations, and the
dataclasses check their ranges, so a new field needs no entry here.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from seer_edge.config.presets import PRESETS, Preset, Settings
from seer_edge.config.registry import ALGORITHMS, check_actions
from seer_edge.config.request import flag_of, has_flag
from seer_edge.config.toml_file import read_toml
from seer_edge.envs import EnvSpec
from seer_edge.errors import BadInputError
from seer_edge.networks.spec import ENCODERS
from seer_edge.validation import NONE, nearest, typed

SUFFIX = ".toml"
_NOT_IN_FILES = ("name", "source", "settings")


@dataclass(frozen=True)
class Hyperparameter:
    """One entry of a preset."""

    name: str
    kind: Any  # annotation
    default: Any  # dataclasses.MISSING if a preset file must have it
    meaning: str  # empty for a field without one
    in_settings: bool


def hyperparameters(algo: str) -> dict[str, Hyperparameter]:
    """Return all entries of a preset of the agent `algo`, by name, in the order of their fields.

    Entries that the agent fixes are left out.
    """
    algorithm = ALGORITHMS[algo]
    entries = (*_entries(Preset, in_settings=False), *_entries(algorithm.settings, in_settings=True))
    return {entry.name: entry for entry in entries if entry.name not in algorithm.fixed}


def _entries(owner: type[Any], *, in_settings: bool) -> Iterator[Hyperparameter]:
    kinds = get_type_hints(owner)
    for field in dataclasses.fields(owner):
        if in_settings or field.name not in _NOT_IN_FILES:
            yield Hyperparameter(field.name, kinds[field.name], field.default, _meaning(owner, field.name), in_settings)


def _meaning(owner: type[Any], name: str) -> str:
    """Return what the annotation of a field says, in the class itself or the nearest one above it that says it."""
    for base in owner.__mro__:
        kind = (
            get_type_hints(base, include_extras=True).get(name)
            if name in vars(base).get("__annotations__", {})
            else None
        )
        if get_origin(kind) is Annotated:
            return str(get_args(kind)[1])
    return ""


def override(preset: Preset, values: Mapping[str, Any]) -> tuple[Preset, tuple[str, ...]]:
    """Return `preset` with `values` from `--set`, and one `name=value` for each of them.

    Raises BadInputError for an unknown name, a name that has its own flag, and a value of the wrong type or
    outside of its range.
    """
    known = hyperparameters(preset.algo)
    settable = [name for name in known if not has_flag(name)]
    changed: list[str] = []
    for key, value in values.items():
        name, shown = key.replace("-", "_"), f"--set {key}={_plain_text(value)}"
        if has_flag(name) or name in ALGORITHMS[preset.algo].fixed:
            flag = flag_of(name) if has_flag(name) else "--algo"
            raise BadInputError(f"{shown}: {flag} sets {name}; give that flag instead")
        if name not in settable:
            raise BadInputError(f"{shown}: unknown hyperparameter; {nearest(name, settable)}")
        try:
            given = {name: typed(value, known[name].kind)}
            if known[name].in_settings:
                given = {"settings": dataclasses.replace(preset.settings, **given)}
            preset = dataclasses.replace(preset, **given)
        except ValueError as error:
            raise BadInputError(f"{shown}: {str(error).removeprefix(f'{name} ')}") from error
        changed.append(f"{name}={toml_value(typed(value, known[name].kind))}")
    return preset, tuple(changed)


def override_settings(algo: str, settings: Settings, values: Mapping[str, Any]) -> tuple[Settings, tuple[str, ...]]:
    """Return the `settings` of a run that has begun with `values` from `--set`, as `override` does.

    Raises BadInputError also for what is no hyperparameter of the agent, such as the action repeat.
    """
    known = hyperparameters(algo)
    for key in values:
        name = key.replace("-", "_")
        if name in known and not has_flag(name) and not known[name].in_settings:
            raise BadInputError(f"--set {key}: cannot change in a run that has begun; leave it out")
    preset = PRESETS[ALGORITHMS[algo].default_preset.lower(), algo]
    changed, lines = override(dataclasses.replace(preset, settings=settings), values)
    return changed.settings, lines


# --- preset files ------------------------------------------------------------------------------------------------


def is_preset_file(text: str) -> bool:
    """Whether the value of `--preset` names a file: it ends with .toml or contains a slash."""
    return text.endswith(SUFFIX) or "/" in text


def preset_to_toml(preset: Preset) -> str:
    """Return `preset` as TOML that `read_preset` reads back."""
    lines = [f"# Preset {preset.name}: {preset.source}.", f"# Load a copy of it with --preset FILE{SUFFIX}."]
    for name, entry in hyperparameters(preset.algo).items():
        value = getattr(preset.settings if entry.in_settings else preset, name)
        comment = f"  # {entry.meaning}" if entry.meaning else ""
        lines.append(f"{name} = {toml_value(value)}{comment}")
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """Return a number, text, truth value, sequence or None as TOML. None is written as "none"."""
    if value is None:
        return f'"{NONE}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return repr(value)


def read_preset(path: str) -> Preset:
    """Return the preset in the TOML file `path`; its name is the path.

    Entries that the file leaves out have the value of the agent's default preset. Raises BadInputError, which names the
    entry.
    """
    missing = "give a TOML file, or a name that `seer-edge presets` lists"
    found = read_toml(path, f"--preset {path}", missing, "seer-edge presets NAME prints a valid file")
    try:
        return _preset_from(found, path)
    except ValueError as error:
        raise BadInputError(f"--preset {path}: {error}") from error


def preset_from_file(env: EnvSpec, path: str, algo: str | None = None) -> Preset:
    """Return the preset in a file for the agent `algo`; None is the agent that the file names.

    Raises BadInputError if file, agent and the actions of `env` do not fit together.
    """
    preset = read_preset(path)
    wanted = ALGORITHMS[algo or preset.algo]
    try:
        check_actions(algo or preset.algo, env)
    except ValueError as error:
        raise BadInputError(f"{f'--algo {algo}' if algo else f'--preset {path}'}: {error}") from error
    if not isinstance(preset.settings, wanted.settings):
        raise BadInputError(f"--preset {path}: is a preset of {preset.algo}, not of {algo}; leave one of the two out")
    settings = dataclasses.replace(preset.settings, **wanted.fixed)
    return dataclasses.replace(preset, algo=algo or preset.algo, settings=settings)


def _preset_from(found: Mapping[str, Any], path: str) -> Preset:
    """Raise ValueError, which names the entry, for anything that does not make a preset."""
    algo = found.get("algo")
    if not isinstance(algo, str) or algo not in ALGORITHMS:
        wrong = "algo is missing" if algo is None else f"algo = {_plain_text(algo)}: unknown agent"
        raise ValueError(f"{wrong}; choose one of {', '.join(ALGORITHMS)}")
    known, algorithm = hyperparameters(algo), ALGORITHMS[algo]
    values: dict[str, Any] = {}
    for name, value in found.items():
        if name not in known:
            raise ValueError(f"unknown entry {name!r}; {nearest(name, list(known))}")
        try:
            values[name] = typed(value, known[name].kind)
        except ValueError as error:
            raise ValueError(f"{name} = {_plain_text(value)}: {error}") from error
    if "encoder" in values and values["encoder"] not in ENCODERS:
        raise ValueError(f"encoder = {_plain_text(values['encoder'])}: choose one of {', '.join(ENCODERS)}")
    base = PRESETS[algorithm.default_preset.lower(), algo]
    inside = {name: value for name, value in values.items() if known[name].in_settings}
    outside = {name: value for name, value in values.items() if not known[name].in_settings}
    settings = dataclasses.replace(base.settings, **inside, **algorithm.fixed)
    return dataclasses.replace(base, name=path, source=path, settings=settings, **outside)


def _plain_text(value: Any) -> str:
    """A value in one short line."""
    text = value if isinstance(value, str) else f"{value}"
    return " ".join(text.split())[:60]
