"""Test that importing all of seer_runtime loads no large dependency, so that it runs on a small board."""

import json
import subprocess
import sys

IMPORT_ALL = """
import importlib, json, pkgutil, sys
import seer_runtime
names = [module.name for module in pkgutil.walk_packages(seer_runtime.__path__, "seer_runtime.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, sorted(sys.modules)]))
"""

HEAVY = {"torch", "gymnasium", "onnx", "cv2", "ale_py", "dm_control", "mujoco", "seer_edge"}


def test_importing_seer_runtime_loads_no_heavy_package() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    names, loaded = json.loads(done.stdout)
    assert (
        {"seer_runtime.replay.store", "seer_runtime.replay.convert", "seer_runtime.onnx.encoder"}
        <= set(names)
        <= set(loaded)
    )
    assert {module.partition(".")[0] for module in loaded} & HEAVY == set()
