"""What pip is told: ranges in the metadata, pins in the constraints, a torch that runs on the board."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
METADATA = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
PINS = [
    Requirement(line)
    for line in (PROJECT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
MACHINES = ("x86_64", "aarch64")


def _applies(requirement: Requirement, machine: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"platform_machine": machine})


def _asked(machine: str) -> list[Requirement]:
    """Of the base install and of every extra, but the project itself."""
    extras = [line for extra in METADATA["optional-dependencies"].values() for line in extra]
    asked = [Requirement(line) for line in (*METADATA["dependencies"], *extras)]
    return [one for one in asked if one.name != METADATA["name"] and _applies(one, machine)]


@pytest.mark.parametrize(
    ("machine", "version", "taken"),
    [
        ("aarch64", "2.9.1", True),
        ("aarch64", "2.10.0", False),  # an illegal instruction on Cortex-A53 and A72
        ("aarch64", "2.13.0", False),  # gigabytes of CUDA
        ("x86_64", "2.9.1", True),
        ("x86_64", "2.13.0", True),
        ("x86_64", "2.13.0+cpu", True),  # of the user's own choice
        ("aarch64", "2.9.0+local", True),
    ],
)
def test_the_torch_that_a_machine_gets(machine: str, version: str, taken: bool) -> None:
    (torch,) = (one for one in _asked(machine) if one.name == "torch")
    assert torch.specifier.contains(version) == taken


@pytest.mark.parametrize("machine", MACHINES)
def test_metadata_has_ranges_and_constraints_have_pins_inside_them(machine: str) -> None:
    pins = {canonicalize_name(pin.name): pin for pin in PINS if _applies(pin, machine)}
    for asked in _asked(machine):
        assert not any(part.operator in ("==", "===") for part in asked.specifier), asked
        (pinned,) = pins[canonicalize_name(asked.name)].specifier
        assert pinned.operator == "=="
        assert asked.specifier.contains(pinned.version), asked


def test_the_base_install_is_small() -> None:
    assert {Requirement(line).name for line in METADATA["dependencies"]} == {
        *("numpy", "onnxruntime", "opencv-python-headless", "psutil", "shtab")
    }
