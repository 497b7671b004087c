"""Videos of a run's evaluations (`--eval-video`)."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from seer_edge.envs.recorder import Recorder
from seer_edge.training.metrics import Console
from seer_edge.training.session import Session
from seer_runtime import durable

KEPT = 5
"""Videos of the newest evaluations that are kept."""
_NAME = re.compile(r"step_(\d{10,})\.mp4")


class EvaluationVideos:
    """Records the first episode of each evaluation in `videos/step_NNN.mp4`. Changes nothing in the session."""

    def __init__(self, folder: Path, session: Session, console: Console) -> None:
        """Drop the videos after the session's step, which the run makes again. Raises OSError."""
        self._folder = folder
        self._session = session
        self._console = console
        if session.config.eval_video:
            self._clean(session.timestep)

    @contextlib.contextmanager
    def recording(self) -> Iterator[Recorder | None]:
        """Context manager: the recorder of an evaluation, whose video appears at the end unless it is discarded.

        None without `--eval-video`, or, after a warning, if the disk refuses.
        """
        if not self._session.config.eval_video:
            yield None
            return
        try:
            durable.make_folder(self._folder)
        except OSError as error:
            self._console.warn(f"{self._folder}: no video ({error}); the run continues")
            yield None
            return
        recorder = Recorder(self._folder / f"{durable.checkpoint_name(self._session.timestep)}.mp4", episodes=1)
        try:
            yield recorder
            if recorder.publish():
                self._thin_out()
        finally:
            recorder.discard()

    def _steps(self) -> dict[int, Path]:
        """Return the videos by step, ascending. Raises OSError."""
        found = [(_NAME.fullmatch(entry.name), entry) for entry in self._folder.iterdir()]
        return dict(sorted((int(match[1]), entry) for match, entry in found if match is not None))

    def _thin_out(self) -> None:
        with contextlib.suppress(OSError):
            for video in list(self._steps().values())[:-KEPT]:
                video.unlink()

    def _clean(self, timestep: int) -> None:
        """Remove later videos, and the parts that a killed process left."""
        if not self._folder.is_dir():
            return
        for later in (video for step, video in self._steps().items() if step > timestep):
            later.unlink()
        for part in self._folder.glob(".step_*.mp4"):
            part.unlink()
