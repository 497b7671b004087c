"""A model of a disk that may lose power: which writes are certain at each moment, and which may be lost.

It assumes only what POSIX guarantees. The content of a file is certain once the file was synced, and a name is certain
once its folder was synced. Any other change may or may not reach the disk, independently and in any order. A rename is
atomic.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seer_runtime.durable import files

Tree = dict[tuple[str, ...], bytes | None]  # None is a folder
ROOT = 0
CONTENTS = ("lost", "torn", "zeros", "kept")


@dataclass(frozen=True)
class Op:
    """A change of a name: in `folder`, `name` becomes `node`, is removed (`node` None) or moves to `target`."""

    folder: int
    name: str
    node: int | None = None
    target: tuple[int, str] | None = None

    def folders(self) -> set[int]:
        return {self.folder} | ({self.target[0]} if self.target else set())

    def apply(self, names: dict[int, dict[str, int]]) -> None:
        entries = names.setdefault(self.folder, {})
        if self.target is None and self.node is not None:
            entries[self.name] = self.node
        elif self.target is None:
            entries.pop(self.name, None)
        elif self.name in entries:
            names.setdefault(self.target[0], {})[self.target[1]] = entries.pop(self.name)


@dataclass
class Moment:
    """The disk at one moment: certain names and contents, pending changes, and the last acknowledged value."""

    certain: dict[int, dict[str, int]] = field(default_factory=dict)
    synced: dict[int, bytes] = field(default_factory=dict)
    written: dict[int, bytes] = field(default_factory=dict)
    folders: set[int] = field(default_factory=lambda: {ROOT})
    pending: tuple[Op, ...] = ()
    acknowledged: Any = None

    def copy(self) -> "Moment":
        return Moment(
            {node: dict(entries) for node, entries in self.certain.items()},
            dict(self.synced),
            dict(self.written),
            set(self.folders),
            self.pending,
            self.acknowledged,
        )

    def unsynced(self) -> list[int]:
        """Return the files whose written content is not certain to be on the disk."""
        return sorted(node for node, data in self.written.items() if self.synced.get(node) != data)

    def survivor(self, kept: Callable[[int], bool], content: Callable[[int], str]) -> Tree:
        """Return the tree after the power returns, if only the pending changes `kept` reached the disk."""
        names = {node: dict(entries) for node, entries in self.certain.items()}
        for number, op in enumerate(self.pending):
            if kept(number):
                op.apply(names)
        tree: Tree = {}

        def walk(node: int, path: tuple[str, ...]) -> None:
            if node in self.folders:
                tree[path] = None
                for name, child in names.get(node, {}).items():
                    walk(child, (*path, name))
            else:
                tree[path] = self.content(node, content(node))

        walk(ROOT, ())
        return tree

    def content(self, node: int, fate: str) -> bytes:
        written, synced = self.written[node], self.synced.get(node, b"")
        if fate == "kept" or written == synced:
            return written
        changed = next((n for n, (a, b) in enumerate(zip(written, synced, strict=False)) if a != b), len(synced))
        torn = written[: changed + (len(written) - changed) // 2]
        return {"lost": synced, "torn": torn, "zeros": synced + bytes(max(0, len(written) - len(synced)))}[fate]

    def worst(self) -> list[Tree]:
        """Return the trees for these sets of kept changes: none, all, each alone, all but one; with each content."""
        count = len(self.pending)
        masks = [set[int](), set(range(count))]
        masks += [{number} for number in range(count)] + [set(range(count)) - {number} for number in range(count)]
        fates = CONTENTS if self.unsynced() else ("kept",)
        return [self.survivor(mask.__contains__, lambda _, fate=fate: fate) for mask in masks for fate in fates]


class Disk:
    """Records the steps of `files` below `root`. `moments` are the states of the disk between the steps.

    If `forgets(step, name)` is true, the sync of that file or folder is ignored.
    """

    def __init__(
        self, root: Path, patch: pytest.MonkeyPatch, forgets: Callable[[str, str], bool] | None = None
    ) -> None:
        self.root = root
        self.forgets = forgets or (lambda step, name: False)
        self.now = Moment()
        self.moments = [self.now.copy()]
        self.nodes: dict[Path, int] = {root: ROOT}
        for step, effect in {
            "_create": self.look,
            "_open_append": self.look,
            "_write": self.look,
            "_truncate": self.look,
            "_make_folder": self.look,
            "_fsync": self.fsync,
            "_fsync_folder": self.fsync_folder,
            "_rename": self.rename,
            "_remove": self.remove,
        }.items():
            patch.setattr(files, step, self.follow(getattr(files, step), effect))

    def follow(self, step: Callable[..., Any], effect: Callable[..., None]) -> Callable[..., Any]:
        def followed(*args: Any) -> Any:
            self.look()  # finds files that were written without the steps
            if effect == self.remove:
                effect(*args)
                return step(*args)
            result = step(*args)
            effect(*args)
            self.moments.append(self.now.copy())
            return result

        return followed

    def acknowledge(self, value: Any) -> None:
        self.now.acknowledged = value
        self.moments.append(self.now.copy())

    def change(self, op: Op) -> None:
        self.now.pending += (op,)

    def look(self, *_: Any) -> None:
        """Record new files and folders, and the current content of every file."""
        for path in sorted(self.root.rglob("*")):
            if path not in self.nodes:
                node = self.nodes[path] = 1 + len(self.nodes) + 10_000 * len(self.moments)
                self.change(Op(self.nodes[path.parent], path.name, node))
                if path.is_dir():
                    self.now.folders.add(node)
            if not path.is_dir():
                self.now.written[self.nodes[path]] = path.read_bytes()

    def fsync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if not self.forgets("_fsync", path.name):
            self.now.synced[self.nodes[path]] = self.now.written[self.nodes[path]]

    def fsync_folder(self, path: Path) -> None:
        if self.forgets("_fsync_folder", path.name) or path not in self.nodes:
            return
        node = self.nodes[path]
        for op in self.now.pending:
            if node in op.folders():
                op.apply(self.now.certain)
        self.now.pending = tuple(op for op in self.now.pending if node not in op.folders())

    def rename(self, source: Path, target: Path) -> None:
        self.change(Op(self.nodes[source.parent], source.name, target=(self.nodes[target.parent], target.name)))
        moved = {path: node for path, node in self.nodes.items() if path == source or source in path.parents}
        self.nodes = {path: node for path, node in self.nodes.items() if path not in moved}
        self.nodes |= {target / path.relative_to(source): node for path, node in moved.items()}

    def remove(self, path: Path) -> None:
        for gone in [*sorted(path.rglob("*"), reverse=True), path]:
            if gone in self.nodes:
                self.change(Op(self.nodes[gone.parent], gone.name))
                del self.nodes[gone]
                self.moments.append(self.now.copy())


def build(tree: Tree, root: Path) -> None:
    for path, data in tree.items():
        if data is None:
            root.joinpath(*path).mkdir(exist_ok=True)
        else:
            root.joinpath(*path).write_bytes(data)
