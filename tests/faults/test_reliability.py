"""`docs/reliability.md` has exactly one row for each kind of fault that the tests inject."""

import ast
from pathlib import Path

from tests.faults.conftest import BEGIN, END, HEADER

FOLDER = Path(__file__).parent
DOCUMENT = FOLDER.parents[1] / "docs/reliability.md"


def injected() -> set[str]:
    """Return the fault and the guarantee of each `pytest.mark.fault` in this folder, as table cells."""
    found = set()
    for path in FOLDER.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                (promise,) = (keyword.value for keyword in node.keywords if keyword.arg == "promise")
                found.add(f"| {ast.literal_eval(node.args[0])} | {ast.literal_eval(promise)} |")
    return found


def test_the_table_has_a_row_for_each_fault() -> None:
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    table, _, _ = rest.partition(END)
    rows = [line for line in table.strip().splitlines() if line not in HEADER.splitlines()]
    shown = {line[: line.index(" | ", line.index(" | ") + 3) + 2] for line in rows}
    assert shown == injected()
