"""Sort runs by game and by setting, and name each setting by what differs between the runs."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from seer_edge.reports.reading import Run
from seer_runtime.system.units import exact_size

AT, WINDOW, CODEC, SOURCE = "freeze_at", "freeze_window", "latent_codec", "source"
FREEZE = (AT, WINDOW)
"""Entries that are named together."""
Groups = Mapping[str, Mapping[str, Sequence[Run]]]
"""Runs by game, then by the name of their setting."""


def grouped(runs: Sequence[Run]) -> Groups:
    """Return the runs by game and setting, in the order in which they were given.

    Settings are named by the entries of `config.json` whose values differ between runs of one game. An entry that the
    version of a run did not have yet is not compared, and neither is the codec of a run that never freezes.
    """
    by_game: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_game[run.game].append(run)
    varied = list(dict.fromkeys(name for game in by_game.values() for name in _varied(game)))
    several = {name for name in FREEZE if any(len(_chosen(game, name)) > 1 for game in by_game.values())}
    result: dict[str, dict[str, list[Run]]] = {}
    for game, found in by_game.items():
        names = result.setdefault(game, {})
        for run in found:
            names.setdefault(_name(run, varied, several), []).append(run)
    return result


def _varied(runs: Sequence[Run]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len(_values(runs, name)) > 1]


def _values(runs: Sequence[Run], name: str) -> set[str]:
    return {repr(run.settings[name]) for run in runs if name in run.settings}


def _chosen(runs: Sequence[Run], name: str) -> set[int]:
    """Return the steps of fixed freezes, or the windows of automatic ones."""
    automatic = name == WINDOW
    return {
        run.settings[name] for run in runs if run.settings.get(name) and bool(run.settings.get(WINDOW)) == automatic
    }


def _name(run: Run, varied: Sequence[str], several: Collection[str]) -> str:
    parts = []
    for name in varied:
        if name in FREEZE:
            parts.append(_freeze(run, several))
        elif name == SOURCE:
            parts += [f"from {run.settings[name]}"] if run.settings.get(name) else []
        elif name in run.settings and not (name == CODEC and _is_never_frozen(run)):
            parts.append(_part(name, run.settings[name]))
    return ", ".join(dict.fromkeys(parts)) or run.algo


def _is_never_frozen(run: Run) -> bool:
    return run.settings.get(AT, 0) is None


def _freeze(run: Run, several: Collection[str]) -> str:
    at, window = run.settings.get(AT), run.settings.get(WINDOW)
    if at is None:
        return "never frozen"
    if at == 0:
        return "encoder imported"
    if window is not None:
        return "frozen by auto" + (f", windows of {window:,}" if WINDOW in several else "")
    return f"frozen at {at:,}" if AT in several else "frozen"


def _part(name: str, value: Any) -> str:
    if name == "mem_budget_bytes":
        return exact_size(value)
    if name == "algo":
        return str(value)
    words = name.replace("_", " ")
    if value is None:
        return f"no {words}"
    if isinstance(value, bool):
        return f"{words} {'on' if value else 'off'}"
    return f"{words} {value:,}" if isinstance(value, int) else f"{words} {value}"
