"""Write docs/cli.md, the reference of the command line, from the parser. `--check` only compares."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from seer_edge.cli.flags import make_parser
from seer_edge.config.hyperparameters import Hyperparameter, hyperparameters, toml_value
from seer_edge.config.presets import PRESETS
from seer_edge.config.registry import ALGORITHMS
from seer_edge.config.request import has_flag
from seer_edge.validation import describe

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
HEAD = """\
# Command line

This page is generated from the parser by `python tools/clidoc.py`. `seer-edge COMMAND --help` prints the same texts.

Sizes are bytes, or a number with a unit: `0.07GB` is 70,000,000 bytes, `64MiB` is 67,108,864. Times need a unit:
`30s`, `10min` or `1.5h`, and for `--control-period` and `--rest-after` also `200ms`. Steps are agent steps.

Exit status: 0 for success, 2 for bad input, 75 for a run that stopped to stay safe (`seer-edge resume` continues it),
128 and the number of the signal for a run that a signal stopped.
"""
SETTINGS_HEAD = """\
## Hyperparameters of `--set` and preset files

`--set KEY=VALUE` changes one of these. A preset file has one `key = value` on each line, in TOML, and names its
`algo`. It may also have these entries, which are flags of `train`: `encoder`, `mem_budget_bytes`, `total_timesteps`,
`augmentations`, `eval_every` and `eval_episodes`. Entries that it leaves out have the values of the preset `default`.
`seer-edge presets NAME` prints a whole preset as such a file.
"""


def document() -> str:
    """Return the text of docs/cli.md."""
    parser = make_parser()
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    parts = [HEAD, "\n".join(_command("", parser))]
    for name, command in commands.choices.items():
        parts.append("\n".join(_command(name, command)))
    parts.append("\n".join(_settings()))
    return "\n".join(parts)


def _command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## {f'seer-edge {name}' if name else 'Before the command'}\n"
    yield f"{command.description}\n"
    yield f"```\n{command.format_usage().removeprefix('usage: ').strip()}\n```\n"
    for group in command._action_groups:
        hidden = (argparse._HelpAction, argparse._SubParsersAction)
        actions = [action for action in group._group_actions if not isinstance(action, hidden)]
        if not actions:
            continue
        title = {"positional arguments": "Arguments", "options": "Flags"}.get(str(group.title), str(group.title))
        yield f"{title[0].upper()}{title[1:]}:\n"
        for action in actions:
            yield f"- `{_invocation(action)}`: {str(action.help) % vars(action)}"
        yield ""


def _invocation(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
    return f"{', '.join(action.option_strings)} {value}".strip()


def _settings() -> Iterator[str]:
    yield SETTINGS_HEAD
    for algo, algorithm in ALGORITHMS.items():
        default = PRESETS[algorithm.default_preset.lower(), algo]
        yield f"With `--algo {algo}`, with the values of its preset `{default.name}`:\n"
        for name, entry in hyperparameters(algo).items():
            if not has_flag(name):
                value = getattr(default.settings if entry.in_settings else default, name)
                yield f"- `{name} = {toml_value(value)}`: {_sentence(entry)}"
        yield ""


def _sentence(entry: Hyperparameter) -> str:
    """Return what a hyperparameter means, and which values it takes."""
    text = f"{entry.meaning}; {describe(entry.kind)}" if entry.meaning else describe(entry.kind)
    return f"{text[0].upper()}{text[1:]}."


def main() -> int:
    """Write the document, or compare it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Do not write. Exit with 1 if the file is out of date.")
    text = document()
    if parser.parse_args().check:
        return int(not DOCUMENT.is_file() or DOCUMENT.read_text() != text)
    DOCUMENT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
