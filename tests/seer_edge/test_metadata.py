"""What pip is told: ranges in the metadata, pins in the constraints, a torch that runs on the board."""

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
    place = {"platform_machine": machine, "python_version": python}
    return requirement.marker is None or requirement.marker.evaluate(place)


def _asked(machine: str, python: str) -> list[Requirement]:
    """Requirements of the base install and of every extra, except the project itself."""
    extras = [line for extra in METADATA["optional-dependencies"].values() for line in extra]
    asked = _chosen([*METADATA["dependencies"], *extras], machine, python)
    return [one for one in asked if one.name != METADATA["name"]]


def _chosen(lines: Sequence[str], machine: str, python: str) -> list[Requirement]:
    return [one for one in map(Requirement, lines) if _applies(one, machine, python)]


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
    for python in PYTHONS:
        (torch,) = (one for one in _asked(machine, python) if one.name == "torch")
        assert torch.specifier.contains(version) == taken


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("machine", MACHINES)
def test_metadata_has_ranges_and_constraints_have_pins_inside_them(machine: str, python: str) -> None:
    pins = {canonicalize_name(pin.name): pin for pin in PINS if _applies(pin, machine, python)}
    for asked in _asked(machine, python):
        assert not any(part.operator in ("==", "===") for part in asked.specifier), asked
        (pinned,) = pins[canonicalize_name(asked.name)].specifier
        assert pinned.operator == "=="
        assert asked.specifier.contains(pinned.version), asked


def test_the_base_install_is_small() -> None:
    assert {Requirement(line).name for line in METADATA["dependencies"]} == {
        *("numpy", "onnxruntime", "opencv-python-headless", "psutil")
    }


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_dmc_extra_installs_dm_control_where_labmaze_has_a_wheel(python: str) -> None:
    chosen = _chosen(METADATA["optional-dependencies"]["dmc"], "x86_64", python)
    assert {one.name for one in chosen} == {"dm_control", "mujoco"}


def test_python_3_13_gets_all_that_dm_control_requires_except_labmaze() -> None:
    required = _chosen(metadata.requires("dm_control") or [], "x86_64", "3.13")
    # Only dm_control's setup.py uses setuptools.
    needed = {canonicalize_name(one.name): one for one in required if one.name not in ("labmaze", "setuptools")}
    installed = _chosen([*METADATA["dependencies"], *METADATA["optional-dependencies"]["dmc"]], "x86_64", "3.13")
    ours = {canonicalize_name(one.name): one for one in installed}
    assert set(needed) <= set(ours)
    assert "dm-control" not in ours
    for name, one in needed.items():
        (least,) = (part.version for part in ours[name].specifier if part.operator == ">=")
        assert one.specifier.contains(least), f"{ours[name]} admits versions that dm_control refuses: {one}"


def test_the_classifiers_name_every_python_version_that_is_tested() -> None:
    named = [line.rpartition(" ")[2] for line in METADATA["classifiers"] if "Python :: 3." in line]
    (listed,) = (line for line in (PROJECT / "Makefile").read_text().splitlines() if line.startswith("VERSIONS :="))
    assert named == listed.split()[2:] == list(PYTHONS)
    assert METADATA["requires-python"] == f">={PYTHONS[0]}"
