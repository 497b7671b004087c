"""`--eval-video` and `eval --record`: the recorded frames, and a full disk, which costs only the video."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from seer_edge.envs.recorder import Recorder
from tests.end_to_end.short_presets import GAME, TASK, Run
from tests.faults import runs


def film(path: Path) -> tuple[int, Any]:
    """Return the number of frames of a video, and the first one, uint8 `[H, W, 3]` in RGB."""
    video = cv2.VideoCapture(str(path))
    _, image = video.read()
    return int(video.get(cv2.CAP_PROP_FRAME_COUNT)), image[..., ::-1]


@contextmanager
def full_disk(most_bytes: int) -> Iterator[None]:
    """Let no file grow beyond `most_bytes`. Python ignores the signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.integration
def test_the_first_episode_of_the_newest_evaluations_is_kept(run: Run, tmp_path: Path) -> None:
    folder, plain = tmp_path / "run", tmp_path / "plain"
    words = ("train", "--env", GAME, "--eval-every", "10", "--eval-in", "separate", "--eval-episodes", "2", "--run-dir")
    assert run(*words, folder, "--eval-video")[0] == 0
    assert run(*words, plain)[0] == 0
    videos = sorted((folder / "videos").iterdir())
    assert [video.name for video in videos] == [f"step_{step:010d}.mp4" for step in (40, 50, 60, 70, 75)]
    assert [film(video)[0] for video in videos] == [20] * 5  # of one episode
    assert not (plain / "videos").exists()
    assert runs.results(folder) == runs.results(plain)
    assert runs.fingerprint(runs.newest(folder)) == runs.fingerprint(runs.newest(plain))
    (folder / "videos" / ".step_0000000080.1.mp4").touch()  # of a process that was killed
    assert run("resume", folder, "--total-timesteps", "80")[0] == 0
    assert sorted(video.name for video in (folder / "videos").iterdir())[-1] == "step_0000000080.mp4"
    assert len(list((folder / "videos").iterdir())) == 5
    status, _, error = run(*words[:3], "--eval-every", "never", "--eval-video", "--run-dir", tmp_path / "no")
    assert (status, "--eval-video: needs evaluations" in error) == (2, True)


@pytest.mark.integration
def test_eval_records_the_colors_that_a_control_agent_sees(run: Run, tmp_path: Path) -> None:
    folder, path = tmp_path / "run", tmp_path / "film.mp4"
    words = ("train", "--env", TASK, "--resolution", "25", "--total-timesteps", "24", "--freeze-at", "never")
    assert run(*words, "--eval-every", "never", "--run-dir", folder)[0] == 0
    status, out, _ = run("eval", folder, "--episodes", "2", "--record", path)
    assert status == 0
    assert run("eval", folder, "--episodes", "2")[1] == out
    count, image = film(path)
    assert (count, image.shape) == (24, (324, 324, 3))  # 12 frames an episode, 13 times as large; sides are even
    assert image[..., 2].mean() > image[..., 0].mean() + 10  # the sky is blue
    status, _, error = run("eval", folder, "--record", tmp_path / "film.gif")
    assert (status, "--record" in error, error.count("evaluation")) == (2, True, 0)


def test_a_full_disk_costs_the_video_and_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    with full_disk(20_000):
        recorder = Recorder(tmp_path / "film.mp4")
        for _ in range(40):
            recorder.show(rng.integers(0, 256, (3, 120, 160), np.uint8))
        assert not recorder.publish()
    assert not list(tmp_path.iterdir())
    (record,) = caplog.records
    assert record.message.startswith(f"{tmp_path / 'film.mp4'}: no video (")


@pytest.mark.integration
@pytest.mark.parametrize("lost", [False, True])
def test_a_run_continues_without_its_video(
    lost: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    show: Callable[..., None] = Recorder.show
    publish: Callable[..., bool] = Recorder.publish

    def showing(recorder: Recorder, frame: Any) -> None:
        if lost and (folder / "videos").is_dir() and not list((folder / "videos").iterdir()):
            (folder / "videos").rmdir()
        show(recorder, frame)

    def publishing(recorder: Recorder) -> bool:
        with full_disk(100):
            return publish(recorder)

    monkeypatch.setattr(Recorder, "show", showing)
    monkeypatch.setattr(Recorder, "publish", publishing)
    status, _, error = run("train", "--env", GAME, "--eval-video", "--run-dir", folder)
    assert status == 0, error
    assert error.count("no video (") == 1
    assert not list(folder.glob("videos/*"))
