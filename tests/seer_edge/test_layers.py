"""The architecture: which folder may import which, no import cycles, and the size of files and functions."""

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = {"seer_edge": PROJECT / "seer_edge", "seer_runtime": PROJECT / "runtime" / "seer_runtime"}

ROOT = {"errors", "validation", "version"}
RUNTIME = {
    "seer_runtime.replay",
    "seer_runtime.onnx",
    "seer_runtime.policy",
    "seer_runtime.durable",
    "seer_runtime.system",
}

ALLOWED: dict[str, set[str]] = {
    # seer_edge, from the top: a folder imports only folders below it.
    "__main__": {"cli"},
    "cli": {"api", "runs", "machine", "config", "networks", *ROOT, *RUNTIME},
    "api": {
        "realtime",
        "training",
        "deploy",
        "sweeps",
        "reproduction",
        "analysis",
        "reports",
        "runs",
        "machine",
        "config",
        "envs",
        *ROOT,
        *RUNTIME,
    },
    "realtime": {"training", "agents", "machine", "config", "envs", "errors", *RUNTIME},
    "training": {"analysis", "runs", "agents", "machine", "config", "networks", "envs", "errors", *RUNTIME},
    "deploy": {"runs", "machine", "config", "networks", "envs", *ROOT, *RUNTIME},
    "reproduction": {"sweeps", "reports", "runs", "config", "errors", "validation"},
    "sweeps": {"runs", "config", "errors", "validation", *RUNTIME},
    "reports": {"runs", "config", "errors", "validation", "version", "seer_runtime.durable", "seer_runtime.system"},
    "analysis": {"reports", "runs", "agents", "config", "networks", "errors", *RUNTIME},
    "runs": {"config", "networks", "envs", "errors", *RUNTIME},
    "agents": {"config", "networks", "envs", "seer_runtime.replay", "seer_runtime.system"},
    "machine": {"config", "envs", "errors", "seer_runtime.onnx", "seer_runtime.system"},
    "config": {"networks", "envs", "errors", "validation", *(RUNTIME - {"seer_runtime.durable"})},
    "networks": {"seer_runtime.onnx", "seer_runtime.system"},
    "envs": {"errors", "validation", "seer_runtime.policy", "seer_runtime.system"},
    "validation": {"errors"},
    "errors": set(),
    "version": set(),
    # The package itself holds the public names, which it imports when they are used.
    "seer_edge": {"api", "version", "seer_runtime.policy"},
    # seer_runtime
    "seer_runtime": {"seer_runtime.policy", "seer_runtime.onnx"},
    "seer_runtime.policy": {"seer_runtime.replay", "seer_runtime.onnx", "seer_runtime.durable", "seer_runtime.system"},
    "seer_runtime.replay": {"seer_runtime.durable", "seer_runtime.system"},
    "seer_runtime.onnx": {"seer_runtime.durable", "seer_runtime.system"},
    "seer_runtime.durable": set(),
    "seer_runtime.system": set(),
}
"""The layers that each layer may import. Folders and root modules of `seer_edge` are listed without its name."""

FILE_LINES_MAX, FUNCTION_LINES_MAX = 400, 60

Graph = Mapping[str, set[str]]


@functools.cache
def modules() -> dict[str, Path]:
    """The source file of every module of both packages, by the module's name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path) -> Iterator[str]:
    """The modules that `path` imports anywhere: inside functions and under TYPE_CHECKING too."""
    known = modules()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in known else source


@functools.cache
def module_graph() -> Graph:
    """The modules of both packages that each module imports."""
    known = modules()
    return {module: {name for name in imports(module, path) if name in known} for module, path in known.items()}


def layer(module: str) -> str:
    """The folder or root module that `module` belongs to, as `ALLOWED` names it."""
    layer = ".".join(module.split(".")[:2])
    return layer.removeprefix("seer_edge.") if layer != "seer_edge" else layer


def layer_graph() -> Graph:
    """The layers that each layer imports."""
    graph: dict[str, set[str]] = {layer(module): set() for module in module_graph()}
    for module, targets in module_graph().items():
        graph[layer(module)] |= {layer(target) for target in targets} - {layer(module)}
    return graph


def find_cycle(graph: Graph) -> list[str] | None:
    """A path that leads back to its first node, or None."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for target in sorted(graph[node]):
            cycle = visit(target, [*path, node])
            if cycle is not None:
                return cycle
        done.add(node)
        return None

    return next((cycle for node in sorted(graph) if (cycle := visit(node, [])) is not None), None)


def test_layers_import_only_what_the_table_allows() -> None:
    forbidden = [
        f"{module} imports {target}"
        for module, targets in sorted(module_graph().items())
        for target in sorted(targets)
        if layer(target) not in {layer(module), *ALLOWED[layer(module)]}
    ]
    assert forbidden == []


def test_the_table_names_every_layer_and_no_other() -> None:
    assert ALLOWED.keys() == {layer(module) for module in modules()}


def test_the_table_has_no_cycle() -> None:
    assert find_cycle(ALLOWED) is None


def test_no_import_cycle_between_layers() -> None:
    assert find_cycle(layer_graph()) is None


def test_no_import_cycle_between_modules() -> None:
    assert find_cycle(module_graph()) is None


def test_a_cycle_is_found() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_pages_list_every_folder_above_those_that_it_imports(page: str) -> None:
    folders = {path.name for path in PACKAGES["seer_edge"].iterdir() if (path / "__init__.py").exists()}
    listed = [
        name for name in re.findall(r"^\| `(\w+)/` \|", (PROJECT / page).read_text(), re.MULTILINE) if name in folders
    ]
    assert sorted(listed) == sorted(folders)
    above = {name: set(listed[: listed.index(name)]) for name in listed}
    assert {name: ALLOWED[name] & above[name] for name in listed if ALLOWED[name] & above[name]} == {}


@pytest.mark.parametrize("package", ["torch", "seer_edge", "gymnasium", "onnx"])
def test_the_runtime_never_imports(package: str) -> None:
    importing = [
        module
        for module, path in modules().items()
        if layer(module).startswith("seer_runtime")
        for name in imports(module, path)
        if name.split(".")[0] == package
    ]
    assert importing == []


@pytest.mark.parametrize("folder", ["cli", "api", "deploy", "reports", "runs", "config", "envs"])
def test_torch_is_imported_only_by_folders_that_learn(folder: str) -> None:
    importing = [
        module
        for module, path in modules().items()
        if layer(module) == folder
        for name in imports(module, path)
        if name.split(".")[0] == "torch"
    ]
    assert importing == []


def test_no_source_file_is_too_long() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in modules().items()}
    assert {module: count for module, count in lines.items() if count > FILE_LINES_MAX} == {}


def test_no_function_is_too_long() -> None:
    long = {
        f"{module}:{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: count for name, count in long.items() if count > FUNCTION_LINES_MAX} == {}


def _top_level_imports(path: Path) -> set[str]:
    """The top-level packages that `path` imports, by statement or by a call with the name as text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
            "import_module",
            "__import__",
        ):
            found |= {str(word.value) for word in node.args if isinstance(word, ast.Constant)}
    return found


def test_one_module_imports_onnx_runtime() -> None:
    """It turns the telemetry off first."""
    sources = [path for folder in ("seer_edge", "runtime", "tools") for path in (PROJECT / folder).rglob("*.py")]
    assert [path for path in sources if "onnxruntime" in _top_level_imports(path)] == [
        PROJECT / "runtime/seer_runtime/onnx/load.py"
    ]
