"""Import torch with less memory: defer the submodules that training never uses until their first use.

Each module in `DEFERRED` is created and placed in `sys.modules` as usual, but its code runs when one of its names is
first read. As soon as a torch submodule is imported that `import torch` itself did not import, such as the compiler,
all deferred modules run. That is needed because `_meta_registrations` acts by registering operators, not by its names.
Until then only the Python operators of torch's `meta` device are missing.

A module in `DEFERRED` that a torch version lacks, or uses while it is imported, behaves as without this import hook.
"""

import contextlib
import importlib
import sys
from collections.abc import MutableSequence, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

DEFERRED = (
    "torch._meta_registrations",  # 12 MB of RSS, with torch._decomp and torch._refs
    "torch.ao",  # 2.4 MB of RSS, with the next five
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.quantization",
    "torch.distributions",  # 1.5 MB
    "torch.utils.data",  # 1.1 MB
)


def import_torch() -> None:
    """Import torch, unless it is imported, and defer the modules in `DEFERRED`. Raises ImportError without torch."""
    if "torch" in sys.modules:
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        torch = importlib.import_module("torch")
        try:
            torch.Generator()
        except RuntimeError:  # torch 2.13 sets Generator's metaclass in _prims, which _meta_registrations imports
            importlib.import_module("torch._prims")
    except BaseException:
        sys.meta_path.remove(finder)
        raise
    finder.torch_is_imported = True


class _Finder(MetaPathFinder):
    """Import hook that defers the modules in `DEFERRED` while `import torch` runs."""

    def __init__(self) -> None:
        self.torch_is_imported = False
        self._deferred: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of a module to defer, and None for all others, which the next finders handle."""
        if not name.startswith("torch."):
            return None
        if self.torch_is_imported:
            self._run_all()
            return None
        spec = PathFinder.find_spec(name, path, target) if name in DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Deferral(spec.loader)
            self._deferred.append(name)
        return spec

    def _run_all(self) -> None:
        """Run all deferred modules, in the order of torch's imports, and remove the hook."""
        with contextlib.suppress(ValueError):  # another thread has already removed it
            sys.meta_path.remove(self)
        for name in self._deferred:
            module = sys.modules[name]
            if isinstance(module, _Deferred):
                _run(module)


class _Deferral(Loader):
    """Loader that creates a module now and leaves its execution to `_run`."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.path: MutableSequence[str] | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # An import of a submodule reads the missing __path__, and so runs the module first.
        self.path = module.__dict__.pop("__path__", None)
        module.__class__ = _Deferred


class _Deferred(ModuleType):
    """A module whose code has not run yet. Reading any missing name runs it."""

    def __getattr__(self, name: str) -> object:
        _run(self)
        return getattr(self, name)


def _run(module: ModuleType) -> None:
    """Turn a deferred module into a plain one and execute its code."""
    spec = module.__spec__
    assert spec is not None
    assert isinstance(spec.loader, _Deferral)
    deferral = spec.loader
    module.__class__ = ModuleType
    spec.loader = module.__loader__ = deferral.loader
    if deferral.path is not None:
        module.__path__ = deferral.path
    deferral.loader.exec_module(module)
