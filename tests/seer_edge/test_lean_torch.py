"""`import_torch` compared with a plain `import torch`, each in a separate process."""

import json
import subprocess
import sys
from typing import Any

import pytest

from seer_edge.machine.lean_torch import DEFERRED

pytestmark = pytest.mark.integration

LEAN = "from seer_edge.machine.lean_torch import DEFERRED, import_torch; import_torch(); import torch"
EAGER = "from seer_edge.machine.lean_torch import DEFERRED; import torch"
REPORT = """
import json, sys
from seer_runtime.system.process import rss_bytes
deferred = [n for n, m in list(sys.modules.items()) if type(m).__name__ == "_Deferred"]
print(json.dumps([result, deferred, sorted(sys.modules), rss_bytes()]))
"""


def run(*code: str) -> tuple[Any, set[str], set[str], int]:
    """Run the code in a new process; return its `result`, the modules still deferred, all modules, and RSS in bytes."""
    script = "\n".join(("result = None", *code, REPORT))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result, deferred, modules, rss = json.loads(done.stdout.splitlines()[-1])
    return result, set(deferred), set(modules), rss


LEARN = """
import dataclasses
from seer_edge.training import run as train
from seer_edge.config.config import build_config
from seer_edge.envs import EnvOptions, make_env
from seer_edge.machine.host import prepare_compute
from seer_edge.training.session import build_session
from seer_edge.config.plan import make_plan

environment = make_env({env!r}, EnvOptions(resolution={resolution}), seed=0, training=True)
environment.reset()
spec = environment.spec
config = build_config(spec, mem_budget_bytes=2_000_000, resolution={resolution})
settings = dataclasses.replace(config.settings, learning_starts=60, random_steps=40, batch_size=8)
config = dataclasses.replace(config, settings=settings)
prepare_compute(config)
session = build_session(make_plan(config, spec))
result = [session.step().loss for _ in range(62)][-1]
"""


@pytest.mark.parametrize(
    ("package", "env", "resolution"), [("ale_py", "Alien", None), ("dm_control", "cartpole-swingup", 25)]
)
def test_learning_runs_no_deferred_module(package: str, env: str, resolution: int | None) -> None:
    pytest.importorskip(package)
    loss, deferred, modules, _ = run(LEAN, LEARN.format(env=env, resolution=resolution))
    assert loss > 0
    assert deferred == modules & set(DEFERRED) >= {"torch._meta_registrations"}
    assert not modules & {"torch._decomp", "torch._refs", "torch._dynamo", "torch._inductor", "sympy"}


# Operators that the device `meta` has only in Python.
META = """
x = torch.empty(4, 4, device="meta")
def shapes():
    return [list(torch.cdist(x, x).shape), list(torch.randperm(4, device="meta").shape)]
"""
ALL = """
import sys
for name in reversed(DEFERRED):
    vars(sys.modules[name])  # does not run the module
    getattr(sys.modules[name], "no_such_thing", None)
import torch.utils.mkldnn
result = [shapes(), {name: sorted(vars(sys.modules[name])) for name in DEFERRED}]
"""


def test_deferred_modules_end_up_equal_to_torchs() -> None:
    """Run them in the reverse of torch's order; compare the names in each module and the registered operators."""
    result, deferred, modules, _ = run(LEAN, META, ALL)
    expected, none_deferred, all_modules, _ = run(EAGER, META, ALL)
    assert result == expected
    assert deferred == none_deferred == set()
    assert modules == all_modules


WAYS = """
import copy, sys
from seer_runtime.system.process import rss_bytes
def deferred():
    return [n for n, m in list(sys.modules.items()) if type(m).__name__ == "_Deferred"]
result = [rss_bytes(), deferred()]
import torch.nn.quantized, torch.distributions as distributions
copy.deepcopy(torch.nn.Linear(3, 3)).state_dict()
result.append(deferred())
from torch.utils.data import *
result += [DataLoader.__name__, deferred()]
from torch.nn.quantized import Linear
result += [Linear.__module__, deferred()]
import torch.utils.mkldnn  # `import torch` does not import it
result += [shapes(), deferred()]
"""


def test_each_way_to_import_a_deferred_module_and_the_memory_saved() -> None:
    _, none_deferred, modules, whole_rss = run("import torch", LEAN)
    assert none_deferred == set()
    assert "torch._meta_registrations" in modules
    (rss, first, imported, loader, then, linear, later, shapes, last), *_ = run(LEAN, META, WAYS)
    assert rss <= whole_rss - 10_000_000
    assert set(first) == set(imported) == modules & set(DEFERRED)
    assert loader == "DataLoader"
    assert "torch.utils.data" not in then
    assert linear == "torch.ao.nn.quantized.modules.linear"
    assert not {"torch.nn.quantized", "torch.ao"} & set(later)
    assert shapes == [[4, 4], [4]]
    assert last == []


def test_missing_and_eagerly_used_modules_load_as_without_the_hook() -> None:
    others = "from seer_edge.machine import lean_torch; lean_torch.DEFERRED += ('torch.no_such', 'torch.overrides')"
    result, deferred, modules, _ = run(others, LEAN, "result = torch.ones(2).sum().item()")
    assert result == 2
    assert "torch.overrides" in modules - deferred
    assert "torch.no_such" not in modules
