"""Sort runs by game and by setting, and name each setting by what differs between the runs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from seer_edge.reports.reading import Run
from seer_runtime.system.units import exact_size

Groups = Mapping[str, Mapping[str, Sequence[Run]]]
"""Runs by game, then by the name of their setting."""


def grouped(runs: Sequence[Run]) -> Groups:
    """Return the runs by game and setting, in the order in which they were given.

    Settings are named by the entries of `config.json` whose values differ between runs of one game. An entry that the
    version of a run did not have yet is not compared.
    """
    by_game: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_game[run.game].append(run)
    varied = list(dict.fromkeys(name for game in by_game.values() for name in _varied(game)))
    exact = any(
        len(_values([run for run in game if run.settings.get("freeze_at")], "freeze_at")) > 1
        for game in by_game.values()
    )
    result: dict[str, dict[str, list[Run]]] = {}
    for game, found in by_game.items():
        names = result.setdefault(game, {})
        for run in found:
            names.setdefault(_name(run, varied, exact_freeze=exact), []).append(run)
    return result


def _varied(runs: Sequence[Run]) -> list[str]:
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len(_values(runs, name)) > 1]


def _values(runs: Sequence[Run], name: str) -> set[str]:
    return {repr(run.settings[name]) for run in runs if name in run.settings}


def _name(run: Run, varied: Sequence[str], *, exact_freeze: bool) -> str:
    parts = [_part(name, run.settings[name], exact_freeze) for name in varied if name in run.settings]
    return ", ".join(parts) or run.algo


def _part(name: str, value: Any, exact_freeze: bool) -> str:
    if name == "freeze_at":
        return "never frozen" if value is None else f"frozen at {value:,}" if exact_freeze else "frozen"
    if name == "mem_budget_bytes":
        return exact_size(value)
    if name == "algo":
        return str(value)
    words = name.replace("_", " ")
    if isinstance(value, bool):
        return f"{words} {'on' if value else 'off'}"
    return f"{words} {value:,}" if isinstance(value, int) else f"{words} {value}"
