"""Commands and tools in processes that a server forks, which has imported everything: they start at once.

Tests whose subject is the start of the program itself run `python -m seer_edge` instead.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from seer_edge.cli import main
from tests.faults.runs import SERVER

Done = subprocess.CompletedProcess[str]
Prepare = Callable[[], None]


def forked(*words: object, cwd: Path | None = None, prepare: Prepare | None = None) -> Done:
    """Run `seer-edge` with `words` in `cwd` to its end. `prepare` is called in the new process before the command."""
    return _forked(_command, words, cwd, prepare)


def forked_tool(path: Path, *words: object) -> Done:
    """Run the program at `path` with `words` to its end."""
    return _forked(_tool, (path, *words), None, None)


def _forked(
    work: Callable[[list[str]], int], words: tuple[object, ...], cwd: Path | None, prepare: Prepare | None
) -> Done:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        arguments = list(map(str, words))
        process = SERVER.Process(target=_child, args=(work, arguments, cwd or Path.cwd(), prepare, out, err))
        process.start()
        process.join(300)
        assert process.exitcode is not None, "still running"
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def _child(
    work: Callable[[list[str]], int], words: list[str], cwd: Path, prepare: Prepare | None, out: Path, err: Path
) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(cwd)
    if prepare is not None:
        prepare()
    status = work(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _command(words: list[str]) -> int:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    sys.argv = ["seer-edge", *words]
    return main()


def _tool(words: list[str]) -> int:
    sys.path.insert(0, str(Path(words[0]).parent))
    sys.argv = words
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    return 0
