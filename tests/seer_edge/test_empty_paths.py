"""An empty path is refused by the Python API: pathlib would use the current folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

import seer_edge


@pytest.mark.parametrize(
    "call",
    [
        lambda path: seer_edge.train("Alien", run_dir=path, mem_budget="1MB"),
        lambda path: seer_edge.resume(path),
        lambda path: seer_edge.plan_of_run(path),
        lambda path: seer_edge.Learner((36, 36), 3, run_dir=path, hz=30),
        lambda path: seer_edge.fork(path, "new"),
        lambda path: seer_edge.export(path, "policy.seer"),
        lambda path: seer_edge.evaluate(path),
        lambda path: seer_edge.record("Alien", path),
        lambda path: seer_edge.report([Path("run")], path),
    ],
)
@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_refused(
    call: Callable[[str], object], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(seer_edge.BadInputError, match=f"'{path}': is empty; name a file or a folder$"):
        call(path)
    assert not list(tmp_path.iterdir())
