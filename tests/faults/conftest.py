"""Write the table of `docs/reliability.md`: one row for each injected fault, from the tests that ran and passed."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"
HEADER = "| injected fault | guarantee | trials | test |\n|---|---|---|---|"


@dataclass(frozen=True)
class Row:
    """One kind of fault. Several tests may share it."""

    injected: str
    promise: str


class Table:
    """Plugin that counts the trials of each row: the `trials` that a test recorded, else one for each test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: dict[Row, int] = defaultdict(int)
        self.places: dict[Row, set[str]] = defaultdict(set)
        self.failed: set[Row] = set()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> Iterator[None]:
        outcome: Any = yield
        report = outcome.get_result()
        marker = item.get_closest_marker("fault")
        if marker is None:
            return
        row = Row(marker.args[0], marker.kwargs["promise"])
        if report.failed:
            self.failed.add(row)
        elif report.when == "call":
            trials = [value for name, value in item.user_properties if name == "trials"]
            self.trials[row] += sum(trials) if trials else 1
            self.places[row].add(item.path.name)

    def pytest_sessionfinish(self) -> None:
        if self.failed:
            return
        before, _, rest = self.path.read_text().partition(BEGIN)
        table, _, after = rest.partition(END)
        # Keep the rows of files that did not run this time. `make reliability` runs all files.
        ran = {place for places in self.places.values() for place in places}
        kept = [line for line in table.splitlines() if line.startswith("| ") and line != HEADER.splitlines()[0]]
        kept = [line for line in kept if not ran & set(line.rstrip(" |").rpartition("| ")[2].split(", "))]
        lines = [
            f"| {row.injected} | {row.promise} | {trials:,} | {', '.join(sorted(self.places[row]))} |"
            for row, trials in self.trials.items()
        ]
        lines = sorted([*kept, *lines], key=lambda line: line.rstrip(" |").rpartition("| ")[2::-2])
        self.path.write_text("\n".join([before + BEGIN, HEADER, *lines, END + after]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reliability", type=Path, metavar="FILE", help="write the table of faults to this file if all pass"
    )


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--reliability", default=None)
    if path is not None:
        config.pluginmanager.register(Table(path))
