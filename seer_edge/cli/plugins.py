"""A user's own modules: they register encoders, codecs, environments, agents and commands before flags are read.

A module is loaded because `--plugin MODULE` names it, or because an installed package lists it under the entry points
"seer_edge.plugins". `docs/extending.md` has an example of each extension.
"""

import argparse
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from seer_edge.errors import BadInputError
from seer_runtime.durable.files import one_line
from seer_runtime.system.registry import add_entry
from seer_runtime.system.user_modules import import_user_module

FLAG = "--plugin"
ENTRY_POINTS = "seer_edge.plugins"


@dataclass(frozen=True)
class Command:
    """A command that a plugin adds.

    Attributes:
        summary: one sentence for `--help`.
        run: called with the parsed flags. Returns the exit status, or raises BadInputError.
        add_flags: adds the flags of the command to its parser.

    """

    summary: str
    run: Callable[[argparse.Namespace], int]
    add_flags: Callable[[argparse.ArgumentParser], object]


PLUGIN_COMMANDS: dict[str, Command] = {}
"""Every added command by name."""


NAMED_PLUGINS: list[str] = []
"""The modules that `--plugin` named, for processes that a command starts."""


def register_command(
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], int],
    add_flags: Callable[[argparse.ArgumentParser], object] = lambda parser: None,
) -> None:
    """Add the command `seer-edge NAME` (see `Command`). Raises ValueError for a name in use."""
    add_entry(PLUGIN_COMMANDS, "command", name, Command(summary, run, add_flags))


def load_plugins(arguments: list[str]) -> list[str]:
    """Import installed plugins and the modules that `--plugin` names. Return the arguments without those flags.

    Modules are also looked for in the working directory. Raises BadInputError for one that cannot be imported.
    """
    modules, others = _named(arguments)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _import(
            importlib.import_module, entry.module, f"installed plugin {entry.name}", "repair or uninstall its package"
        )
    NAMED_PLUGINS[:] = modules
    for module in modules:
        _import(import_user_module, module, f"{FLAG} {module}", "give a module that Python can import from here")
    return others


def _named(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split into the modules that `--plugin` names and all other arguments."""
    modules: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            others.append(word)
            continue
        value = value if equals else next(words, "")
        if not value:
            raise BadInputError(f"{FLAG}: needs a value; give the name of a module")
        modules.append(value)
    return modules, others


def _import(load: Callable[[str], object], module: str, source: str, hint: str) -> None:
    try:
        load(module)
    except (Exception, SystemExit) as error:
        # A plugin can raise anything. The cause stays attached for a debugger.
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise BadInputError(f"{source}: cannot be imported ({reason}); {hint}") from error
