"""Children pause at their marks, and a mark's peaks are the largest memory since the mark before."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import children  # noqa: E402
from commandline import FaultError  # noqa: E402

SCRIPT = f"""
import sys, time
sys.path.insert(0, {str(TOOLS)!r})
from children import mark, serve

def job(size_bytes, status):
    mark("start")
    block = b"x" * size_bytes
    time.sleep(0.1)
    del block
    print("not a mark")
    mark("grown and shrunk", size_bytes=size_bytes)
    mark("still")
    sys.exit(status)

serve({{"job": job}})
"""


def _marks(folder: Path, **settings: Any) -> list[children.Mark]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    return list(children.run_child(str(script), "job", **settings))


def test_marks_carry_rss_facts_and_the_peak_since_the_last_one(tmp_path: Path) -> None:
    start, grown, still = _marks(tmp_path, size_bytes=50_000_000, status=0)
    assert [start.name, grown.name, still.name] == ["start", "grown and shrunk", "still"]
    assert grown.facts == {"size_bytes": 50_000_000}
    assert grown.peak_bytes >= start.rss_bytes + 49_000_000
    assert grown.rss_bytes < start.rss_bytes + 5_000_000
    assert still.rss_bytes <= still.peak_bytes < start.rss_bytes + 5_000_000
    assert grown.anon_peak_bytes >= start.anon_bytes + 49_000_000
    assert grown.anon_bytes < start.anon_bytes + 5_000_000
    assert all(0 < mark.anon_peak_bytes <= mark.peak_bytes for mark in (start, grown, still))


def test_a_failing_child_raises_fault_error(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="job ended with status 3"):
        _marks(tmp_path, size_bytes=1, status=3)


@pytest.mark.parametrize("tool", ["children", "membench", "rssbench"])
def test_tools_do_not_import_packages_that_their_children_measure(tool: str) -> None:
    code = f"import json, sys; sys.path.insert(0, {str(TOOLS)!r}); import {tool}; print(json.dumps([*sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert not {"numpy", "psutil", "seer_edge", "seer_runtime", "torch"} & set(loaded)
