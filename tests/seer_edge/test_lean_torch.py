"""torch without what training does not use, beside torch as it comes, each in a process of its own."""

import json
import subprocess
import sys
from typing import Any

import pytest

from seer_edge.machine.lean_torch import DEFERRED

LEAN = "from seer_edge.machine.lean_torch import DEFERRED, import_torch; import_torch(); import torch"
EAGER = "from seer_edge.machine.lean_torch import DEFERRED; import torch"
SAY = """
import json, sys
from seer_runtime.system.process import rss_bytes
waiting = [n for n, m in list(sys.modules.items()) if type(m).__name__ == "_Deferred"]
print(json.dumps([said, waiting, sorted(sys.modules), rss_bytes()]))
"""


def run(*code: str) -> tuple[Any, set[str], set[str], int]:
    """What the code set `said` to, which parts had not run by then, all modules, and RSS."""
    script = "\n".join(("said = None", *code, SAY))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said, waiting, modules, rss = json.loads(done.stdout.splitlines()[-1])
    return said, set(waiting), set(modules), rss


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
said = [session.step().loss for _ in range(62)][-1]
"""


@pytest.mark.parametrize(
    ("package", "env", "resolution"), [("ale_py", "Alien", None), ("dm_control", "cartpole-swingup", 25)]
)
def test_learning_runs_nothing_of_what_waits(package: str, env: str, resolution: int | None) -> None:
    pytest.importorskip(package)
    loss, waiting, modules, _ = run(LEAN, LEARN.format(env=env, resolution=resolution))
    assert loss > 0
    assert waiting == modules & set(DEFERRED) >= {"torch._meta_registrations"}
    assert not modules & {"torch._decomp", "torch._refs", "torch._dynamo", "torch._inductor", "sympy"}


# Operators of which the device `meta` has only what is written in Python.
META = """
x = torch.empty(4, 4, device="meta")
def shapes():
    return [list(torch.cdist(x, x).shape), list(torch.randperm(4, device="meta").shape)]
"""
ALL = """
import sys
for name in reversed(DEFERRED):
    vars(sys.modules[name])  # asks for nothing
    getattr(sys.modules[name], "no_such_thing", None)
import torch.utils.mkldnn
said = [shapes(), {name: sorted(vars(sys.modules[name])) for name in DEFERRED}]
"""


def test_what_is_asked_for_is_what_torch_has() -> None:
    """Each in the other order than torch's own; the names in each module, and what they registered."""
    said, waiting, modules, _ = run(LEAN, META, ALL)
    expected, none_waits, all_modules, _ = run(EAGER, META, ALL)
    assert said == expected
    assert waiting == none_waits == set()
    assert modules == all_modules


WAYS = """
import copy, sys
from seer_runtime.system.process import rss_bytes
def waiting():
    return [n for n, m in list(sys.modules.items()) if type(m).__name__ == "_Deferred"]
said = [rss_bytes(), waiting()]
import torch.nn.quantized, torch.distributions as distributions
copy.deepcopy(torch.nn.Linear(3, 3)).state_dict()
said.append(waiting())
from torch.utils.data import *
said += [DataLoader.__name__, waiting()]
from torch.nn.quantized import Linear
said += [Linear.__module__, waiting()]
import torch.utils.mkldnn  # which `import torch` did not import
said += [shapes(), waiting()]
"""


def test_each_way_of_asking_and_that_it_is_worth_it() -> None:
    _, none_waits, modules, whole_rss = run("import torch", LEAN)
    assert none_waits == set()
    assert "torch._meta_registrations" in modules
    (rss, first, named, loader, then, linear, later, shapes, last), *_ = run(LEAN, META, WAYS)
    assert rss <= whole_rss - 10_000_000
    assert set(first) == set(named) == modules & set(DEFERRED)
    assert loader == "DataLoader"
    assert "torch.utils.data" not in then
    assert linear == "torch.ao.nn.quantized.modules.linear"
    assert not {"torch.nn.quantized", "torch.ao"} & set(later)
    assert shapes == [[4, 4], [4]]
    assert last == []


def test_what_another_torch_does_not_have_or_needs_early_is_loaded_as_ever() -> None:
    others = "from seer_edge.machine import lean_torch; lean_torch.DEFERRED += ('torch.no_such', 'torch.overrides')"
    said, waiting, modules, _ = run(others, LEAN, "said = torch.ones(2).sum().item()")
    assert said == 2
    assert "torch.overrides" in modules - waiting
    assert "torch.no_such" not in modules
