"""Untrusted and damaged checkpoints of runs with compressed rows."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seer_runtime import durable
from tests.faults import runs
from tests.faults.test_resume import stop_at
from tests.faults.test_run_disk import short
from tests.faults.test_untrusted_checkpoints import (
    HUGE,
    UNTRUSTED,
    Edit,
    cast,
    check_rejection,
    fill,
    put,
    seal,
    stopped,
    tensors,
    usual_bytes,
)

__all__ = ["stopped", "usual_bytes"]  # fixtures


def rewrite_sizes(change: Callable[[Any], object]) -> Edit:
    return tensors("replay.safetensors", lambda arrays: change(arrays["blocks.sizes"]))


BLOCKS: dict[str, Edit] = {
    **{
        f"blocks.{entry} {value!r}": put("state.json", f"replay.blocks.{entry}", value)
        for entry, values in (("rows", (7, 0, HUGE, "8", None)), ("offset_bytes", (-1, "0", 1.5, None)))
        for value in values
    },
    "blocks are text": put("state.json", "replay.blocks", "x"),
    "a damaged block": fill("replay.safetensors", "blocks.head", 7),
    "sizes of 0": rewrite_sizes(lambda sizes: sizes.fill(0)),
    "sizes of 2**32 - 1": rewrite_sizes(lambda sizes: sizes.fill(2**32 - 1)),
    "sizes of int64": cast("replay.safetensors", "blocks.sizes", "i8"),
    "no sizes": tensors("replay.safetensors", lambda arrays: arrays.pop("blocks.sizes")),
    "a dictionary of other bytes": tensors(
        "replay.safetensors", lambda arrays: arrays.update({"blocks.dictionary": np.arange(99, dtype=np.uint8)})
    ),
    "no open rows": tensors("replay.safetensors", lambda arrays: arrays.pop("blocks.open")),
    "the other store": put("config.json", "store", "paper"),
    "no such store": put("config.json", "store", "zip"),
    "a store that is a list": put("config.json", "store", ["compact"]),
}
SAMPLE_OF_BLOCKS = ("a damaged block", "the other store", "blocks.offset_bytes -1")


@pytest.fixture(scope="session")
def stopped_blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `stopped`, with compressed rows."""
    folder, config = tmp_path_factory.mktemp("blocks"), short(store="compact", latent_codec="uint8")
    stop = functools.partial(stop_at, (55,))
    child = runs.start(folder / "log", runs.train_command, config, folder / "run", prepare=stop)
    assert child.join() == 143, (folder / "log").read_text()
    shutil.rmtree(folder / "run/checkpoints/step_0000000050")
    return folder / "run"


@UNTRUSTED
@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, id=name, marks=() if name in SAMPLE_OF_BLOCKS else pytest.mark.faults)
        for name, edit in BLOCKS.items()
    ],
)
def test_resume_rejects_its_blocks(
    edit: Edit, stopped_blocks: Path, tmp_path: Path, usual_bytes: dict[str, int]
) -> None:
    shutil.copytree(stopped_blocks, tmp_path / "run")
    saved = runs.newest(tmp_path / "run")
    edit(saved)
    seal(saved)
    check_rejection("resume", tmp_path / "run", usual_bytes["resume"])


def test_a_damaged_block_is_skipped_for_the_older_checkpoint(stopped_blocks: Path, tmp_path: Path) -> None:
    """Its checksum does not match, so the older checkpoint is used."""
    path, log = tmp_path / "run", tmp_path / "resume.log"
    shutil.copytree(stopped_blocks, path)
    older, newer = runs.newest(path), path / "checkpoints/step_0000000056"
    shutil.copytree(older, newer)
    manifest = json.loads((newer / durable.MANIFEST).read_text())
    (newer / durable.MANIFEST).write_text(json.dumps({**manifest, "timestep": 56}))
    fill("replay.safetensors", "blocks.head", 7)(newer)
    assert runs.start(log, runs.command, "resume", path).join() == 0, log.read_text()
    assert "skipped step_0000000056: " in log.read_text()
    assert "resumed at step 55 of" in log.read_text()
