"""The examples of `docs/extending.md`, run unchanged, and plugins that cannot be loaded."""

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_edge.cli import main
from seer_edge.cli.plugins import PLUGIN_COMMANDS, load_plugins
from seer_edge.config.presets import PRESETS
from seer_edge.config.registry import ALGORITHMS
from seer_edge.envs.families import FAMILIES
from seer_edge.networks.spec import ENCODERS
from seer_runtime import Policy
from seer_runtime.replay.codecs import LATENT_CODECS, latent_codec
from tests.end_to_end.short_presets import Run, runner

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text()
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
REGISTRIES: tuple[dict[Any, Any], ...] = (ALGORITHMS, PRESETS, ENCODERS, LATENT_CODECS, FAMILIES, PLUGIN_COMMANDS)
LINES_MAX = 60


def files(section: str) -> dict[str, str]:
    """The modules of a section by file name."""
    return {
        name: f"# {name}\n{text}"
        for name, text in re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    }


def command_lines(section: str) -> list[list[str]]:
    """The commands of a section, without `seer-edge`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith("seer-edge ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int]]]:
    """The folder in which every command of the page ran, in its order, and the exit statuses by section."""
    folder, statuses = tmp_path_factory.mktemp("extending"), dict[str, list[int]]()
    for section in SECTIONS.values():
        for name, text in files(section).items():
            (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch, unchanged_registries():
        patch.chdir(folder)
        for title, section in SECTIONS.items():
            statuses[title] = []
            for words in command_lines(section):
                patch.setattr(sys, "argv", ["seer-edge", *words])
                statuses[title].append(main())
    return folder, statuses


class unchanged_registries:  # noqa: N801
    """Context manager: forget what is registered and what is imported from the current directory."""

    def __enter__(self) -> None:
        self._registries = [dict(registry) for registry in REGISTRIES]
        self._modules, self._path = set(sys.modules), list(sys.path)

    def __exit__(self, *unused: object) -> None:
        for registry, before in zip(REGISTRIES, self._registries, strict=True):
            registry.clear()
            registry.update(before)
        for name in set(sys.modules) - self._modules:
            if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(Path.cwd()):
                del sys.modules[name]
        sys.path[:] = self._path


@pytest.mark.parametrize("title", SECTIONS)
def test_an_example_is_short_and_its_commands_succeed(title: str, done: tuple[Path, dict[str, list[int]]]) -> None:
    modules = files(SECTIONS[title])
    assert modules
    assert sum(text.count("\n") for text in modules.values()) <= LINES_MAX
    statuses = done[1][title]
    assert statuses == [0] * len(command_lines(SECTIONS[title]))
    assert statuses


def _summary(folder: Path, run: str) -> Any:
    return json.loads((folder / "runs" / run / "summary.json").read_text())


def test_the_examples_have_the_results_that_the_page_describes(done: tuple[Path, dict[str, list[int]]]) -> None:
    folder, _ = done
    dots, tiny, bfloat16, softmax = (_summary(folder, name) for name in ("dots", "tiny", "bfloat16", "softmax"))
    assert (dots["env"], dots["timesteps"], dots["resumed_at"]) == ("dots/3", 310, [300])
    assert tiny["replay"]["latent_row_bytes"] == 4 * 64
    assert tiny["freeze"]["onnx_max_abs_error"] < 1e-4
    assert (bfloat16["replay"]["latent_codec"], bfloat16["replay"]["latent_row_bytes"]) == ("bfloat16", 2 * 64)
    assert softmax["algo"] == "softmax-dqn"
    assert Policy.load(folder / "softmax.seer").spec.algo == "softmax-dqn"
    assert Policy.load(folder / "tiny.seer").perception.encoder.latent_shape == (1, 64)


# --- single plugins ----------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Run]:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('first line\\nsecond line')\n")
    (tmp_path / "exiting_plugin.py").write_text("exit('no')\n")
    (tmp_path / "bad_layers.py").write_text(
        "from seer_edge.networks.spec import register_encoder\nregister_encoder('mine', ['conv'])\n"
    )
    monkeypatch.chdir(tmp_path)
    with unchanged_registries():
        yield runner(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--plugin", "no_such_module", "doctor"),
            "--plugin no_such_module: cannot be imported (ModuleNotFoundError: ",
        ),
        (("--plugin=broken_plugin", "doctor"), "--plugin broken_plugin: cannot be imported (RuntimeError: first line"),
        (("--plugin", "exiting_plugin", "doctor"), "--plugin exiting_plugin: cannot be imported (SystemExit: no)"),
        (
            ("--plugin", "bad_layers", "doctor"),
            "give Conv, MaxPool, Residual and ReLU layers, not 'conv'",
        ),
        (("doctor", "--plugin"), "--plugin: needs a value; give the name of a module"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_reported_in_one_line(run: Run, words: tuple[str, ...], message: str) -> None:
    status, out, error = run(*words)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert message in error


def test_an_installed_package_registers_by_its_entry_point(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    (site / "tiny-1.0.dist-info").mkdir(parents=True)
    (site / "tiny-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (site / "tiny-1.0.dist-info/entry_points.txt").write_text("[seer_edge.plugins]\ntiny = installed_tiny\n")
    (site / "installed_tiny.py").write_text(files(SECTIONS["An encoder"])["tiny_encoder.py"])
    flags = ("plan", "--env", "tests.end_to_end.pixel_match:PixelMatch-v0", "--encoder", "tiny")
    assert run(*flags)[0] == 2
    monkeypatch.syspath_prepend(site)
    status, out, _ = run(*flags)
    assert status == 0
    assert "encoder tiny" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [("dots/4", "--env dots/4: unknown environment; nearest: dots/5, dots/3"), ("dots", "--env dots: unknown env")],
)
def test_a_name_that_a_family_does_not_have_is_refused(run: Run, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "dots.py").write_text(files(SECTIONS["Environments"])["dots.py"])
    status, out, error = run("--plugin", "dots", "plan", "--env", name)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert message in error


def test_an_environment_of_a_family_with_another_name_in_its_spec_is_refused(run: Run, tmp_path: Path) -> None:
    text = files(SECTIONS["Environments"])["dots.py"]
    (tmp_path / "points.py").write_text(text.replace('register_family("dots"', 'register_family("points"'))
    status, out, error = run("--plugin", "points", "plan", "--env", "points/3")
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert "--env points/3: its spec has the id 'dots/3'; give it 'points/3'" in error


def test_the_codec_of_the_page_keeps_the_upper_half_of_each_float(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bfloat16.py").write_text(files(SECTIONS["A latent codec"])["bfloat16.py"])
    assert load_plugins(["--plugin", "bfloat16", "doctor"]) == ["doctor"]
    codec = latent_codec("bfloat16", (1, 33), augmentations=2)
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(7, 2, 1, 33)) * 10.0 ** rng.integers(-30, 30, (7, 2, 1, 33))).astype(np.float32)
    rows = np.zeros((7, codec.row_bytes), np.uint8)
    codec.encode(values, rows)
    for view in range(2):
        out = np.empty((7, 1, 1, 33), np.float32)
        codec.gather(rows, np.arange(7)[:, None], np.full((7, 1), view), out)
        np.testing.assert_allclose(out[:, 0], values[:, view], rtol=2**-7)
    assert codec.row_bytes == 2 * 2 * 33
    assert [*LATENT_CODECS][:3] == ["float32", "float16", "bfloat16"]
