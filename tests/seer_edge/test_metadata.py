"""Package metadata: version ranges, pins in constraints.txt, a torch that runs on boards, and Python versions."""

import tomllib
from collections.abc import Sequence
from importlib import metadata
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
PYTHONS = ("3.11", "3.12", "3.13")


def _applies(requirement: Requirement, machine: str, python: str) -> bool:
    environment = {"platform_machine": machine, "python_version": python}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _requirements(machine: str, python: str) -> list[Requirement]:
    """Requirements of the base install and of every extra, except the project itself."""
    extras = [line for extra in METADATA["optional-dependencies"].values() for line in extra]
    found = _applicable([*METADATA["dependencies"], *extras], machine, python)
    return [requirement for requirement in found if requirement.name != METADATA["name"]]


def _applicable(lines: Sequence[str], machine: str, python: str) -> list[Requirement]:
    return [requirement for requirement in map(Requirement, lines) if _applies(requirement, machine, python)]


@pytest.mark.parametrize(
    ("machine", "version", "allowed"),
    [
        ("aarch64", "2.9.1", True),
        ("aarch64", "2.10.0", False),  # an illegal instruction on Cortex-A53 and A72
        ("aarch64", "2.13.0", False),  # would install gigabytes of CUDA
        ("x86_64", "2.9.1", True),
        ("x86_64", "2.13.0", True),
        ("x86_64", "2.13.0+cpu", True),  # chosen by the user
        ("aarch64", "2.9.0+local", True),
    ],
)
def test_the_torch_range_depends_on_the_architecture(machine: str, version: str, allowed: bool) -> None:
    for python in PYTHONS:
        (torch,) = (found for found in _requirements(machine, python) if found.name == "torch")
        assert torch.specifier.contains(version) == allowed


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_metadata_has_ranges_and_constraints_pin_versions_inside_them(machine: str, python: str) -> None:
    pins = {canonicalize_name(pin.name): pin for pin in PINS if _applies(pin, machine, python)}
    for requirement in _requirements(machine, python):
        assert not any(part.operator in ("==", "===") for part in requirement.specifier), requirement
        (pinned,) = pins[canonicalize_name(requirement.name)].specifier
        assert pinned.operator == "=="
        assert requirement.specifier.contains(pinned.version), requirement


def test_the_base_install_has_four_dependencies() -> None:
    assert {Requirement(line).name for line in METADATA["dependencies"]} == {
        *("numpy", "onnxruntime", "opencv-python-headless", "psutil", "shtab")
    }


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_dmc_extra_installs_dm_control_where_labmaze_has_a_wheel(python: str) -> None:
    chosen = _applicable(METADATA["optional-dependencies"]["dmc"], "x86_64", python)
    assert {one.name for one in chosen} == {"dm_control", "mujoco"}


def test_python_3_13_gets_all_that_dm_control_requires_except_labmaze() -> None:
    required = _applicable(metadata.requires("dm_control") or [], "x86_64", "3.13")
    # Only dm_control's setup.py uses setuptools.
    needed = {canonicalize_name(one.name): one for one in required if one.name not in ("labmaze", "setuptools")}
    installed = _applicable([*METADATA["dependencies"], *METADATA["optional-dependencies"]["dmc"]], "x86_64", "3.13")
    ours = {canonicalize_name(one.name): one for one in installed}
    assert set(needed) <= set(ours)
    assert "dm-control" not in ours
    for name, one in needed.items():
        (least,) = (part.version for part in ours[name].specifier if part.operator == ">=")
        assert one.specifier.contains(least), f"{ours[name]} allows versions that dm_control excludes: {one}"


def test_the_classifiers_name_every_python_version_that_is_tested() -> None:
    named = [line.rpartition(" ")[2] for line in METADATA["classifiers"] if "Python :: 3." in line]
    (listed,) = (line for line in (PROJECT / "Makefile").read_text().splitlines() if line.startswith("VERSIONS :="))
    assert named == listed.split()[2:] == list(PYTHONS)
    assert METADATA["requires-python"] == f">={PYTHONS[0]}"
