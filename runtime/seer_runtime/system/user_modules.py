"""Import a user's module from the working directory, without letting it hide installed packages, here or in a child."""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def import_user_module(name: str) -> ModuleType:
    """Import `name`, which may be a file or a package in the working directory, and return it.

    The working directory is searched first for `name`, and last for everything else. So a file `onnx.py` beside the
    user's module never replaces the package onnx, which may be imported much later. Raises whatever the module raises.
    """
    directory = str(Path.cwd())
    if directory not in sys.path:
        sys.path.append(directory)
    finder = _Finder(name.partition(".")[0], directory)
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(name)
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Import hook that finds the top-level module `name` in `directory`."""

    def __init__(self, name: str, directory: str) -> None:
        self._name, self._directory = name, directory

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of the module, and None for all others, which the next finders handle."""
        if name != self._name:
            return None
        spec = PathFinder.find_spec(name, [self._directory], target)
        # A folder without __init__.py must not hide an installed package of its name.
        return spec if spec is not None and spec.origin is not None else None


def module_places() -> dict[str, str]:
    """Return variables for a child process, with which it finds modules where this process does."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
