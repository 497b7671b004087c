"""Commands that do not learn do not import torch, and training does not import packages that it does not use."""

import subprocess
import sys


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_plan_does_not_import_torch() -> None:
    modules = modules_after(
        "import sys; sys.argv = ['seer-edge', 'plan', '--env', 'Alien', '--device', 'cpu']\n"
        "from seer_edge.cli import main\nassert main() == 0"
    )
    assert "seer_edge.config.plan" in modules
    assert not modules & {"torch", "onnx", "onnxruntime", "matplotlib", "tensorboardX", "tqdm"}


def test_doctor_does_not_import_torch() -> None:
    modules = modules_after(
        "import sys; sys.argv = ['seer-edge', 'doctor']\nfrom seer_edge.cli import main\nassert main() == 0"
    )
    assert {"seer_edge.machine.doctor", "onnxruntime"} <= modules
    assert not modules & {"torch", "onnx", "gymnasium", "ale_py", "dm_control"}


def test_the_shell_imports_neither_torch_nor_an_emulator() -> None:
    modules = modules_after(
        "import seer_edge.cli, seer_edge.config.plan, seer_edge.config.presets, seer_edge.runs.run_folder"
    )
    assert not modules & {"torch", "onnx", "onnxruntime", "gymnasium", "ale_py", "cv2"}


def test_training_does_not_import_the_compiler_stack() -> None:
    modules = modules_after("import seer_edge.training.run")
    assert "torch" in modules
    assert not modules & {"torch._dynamo", "torch._inductor", "sympy", "onnx", "matplotlib", "tensorboardX"}


INTERRUPTED = """
import sys
from seer_edge.__main__ import main
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "seer_edge.cli.commands":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
sys.exit(main())
"""


def test_an_interrupt_during_the_imports_ends_quietly() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
