"""torch without what training does not use: parts that it imports by itself are run when somebody asks for them.

Nothing is replaced. A part in `DEFERRED` is found and put into its place as ever, but its code runs on the first use of
a name of it; and once anything of torch is imported that `import torch` did not, as its compiler, all of them run,
because one of them, `_meta_registrations`, matters by what it registers. Until then only operators of torch's `meta`
device that are written in Python are missing. A part that another version of torch does not have, or needs while it is
imported, makes no difference.
"""

import contextlib
import importlib
import sys
from collections.abc import MutableSequence, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

DEFERRED = (
    "torch._meta_registrations",  # with torch._decomp and _refs: 12 MB of RSS
    "torch.ao",  # these six: 2.4 MB
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
    "torch.quantization",
    "torch.distributions",  # 1.5 MB
    "torch.utils.data",  # 1.1 MB
)


def import_torch() -> None:
    """Import torch, where nobody did; what is named in `DEFERRED` later or never. Raises ImportError."""
    if "torch" in sys.modules:
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        torch = importlib.import_module("torch")
        try:
            torch.Generator()
        except RuntimeError:  # 2.13 gives it its metaclass in there, which `_meta_registrations` would have imported
            importlib.import_module("torch._prims")
    except BaseException:
        sys.meta_path.remove(finder)
        raise
    finder.torch_is_whole = True


class _Finder(MetaPathFinder):
    def __init__(self) -> None:
        self.torch_is_whole = False
        self._deferred: list[str] = []

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Of a part to defer; None for all else, which the other finders find."""
        if not name.startswith("torch."):
            return None
        if self.torch_is_whole:
            self._run_all()
            return None
        spec = PathFinder.find_spec(name, path, target) if name in DEFERRED else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Deferral(spec.loader)
            self._deferred.append(name)
        return spec

    def _run_all(self) -> None:
        """In torch's own order."""
        with contextlib.suppress(ValueError):  # another thread was first
            sys.meta_path.remove(self)
        for name in self._deferred:
            module = sys.modules[name]
            if isinstance(module, _Deferred):
                _run(module)


class _Deferral(Loader):
    """Loads a module as `loader` does, later."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.path: MutableSequence[str] | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Without its path, an import of anything inside it asks for that, and so runs it first.
        self.path = module.__dict__.pop("__path__", None)
        module.__class__ = _Deferred


class _Deferred(ModuleType):
    """A module until it runs."""

    def __getattr__(self, name: str) -> object:
        _run(self)
        return getattr(self, name)


def _run(module: ModuleType) -> None:
    """Make a deferred module the one that it stands for."""
    spec = module.__spec__
    assert spec is not None
    assert isinstance(spec.loader, _Deferral)
    deferral = spec.loader
    module.__class__ = ModuleType
    spec.loader = module.__loader__ = deferral.loader
    if deferral.path is not None:
        module.__path__ = deferral.path
    deferral.loader.exec_module(module)
