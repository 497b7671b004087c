"""The folder of a run is created once, and after a kill at any moment a run can be created or resumed there."""

from pathlib import Path

import pytest

from seer_edge.errors import BadInputError
from seer_edge.runs import run_folder
from seer_edge.runs.run_folder import RunFolder
from seer_runtime import durable
from tests.seer_edge.configs import atari_config

LEFTOVER = ".config.json.0a1b2c3d.tmp"


def test_a_run_is_created_where_a_killed_process_left_a_temporary_file(tmp_path: Path) -> None:
    (tmp_path / LEFTOVER).write_text("{")
    run_folder.check(tmp_path)
    run = run_folder.create(tmp_path, atari_config(total_timesteps=1_000))
    assert run.read_config().total_timesteps == 1_000
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["photo.jpg", ".hidden", "config.tmp", ".config.json.tmp", ".other.json.0a1b2c3d.tmp"])
def test_a_folder_with_other_files_is_refused_and_keeps_them(name: str, tmp_path: Path) -> None:
    for mine in (name, LEFTOVER):
        (tmp_path / mine).write_text("mine")
    with pytest.raises(BadInputError, match=f"^--run-dir {tmp_path}: not empty; name a new folder"):
        run_folder.create(tmp_path, atari_config(total_timesteps=1_000))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([name, LEFTOVER])


def test_a_checkpoint_that_was_being_replaced_is_progress(tmp_path: Path) -> None:
    """A process can be killed after it renamed the only checkpoint and before it renamed the new one."""
    run = RunFolder(tmp_path)
    assert run.has_no_progress
    durable.publish_checkpoint(run.checkpoints, 500, lambda folder: durable.write_json(folder / "state.json", {}))
    (run.checkpoints / "step_0000000500").rename(run.checkpoints / ".replaced_step_0000000500")
    assert not run.has_no_progress
    assert durable.newest_checkpoint(run.checkpoints).manifest["timestep"] == 500
