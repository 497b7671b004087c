"""When a run saves a checkpoint, and what happens if it cannot."""

import contextlib
import logging
import time
from pathlib import Path

from seer_edge.errors import RunStoppedError
from seer_edge.runs import checkpoint
from seer_edge.runs.run_folder import RunFolder
from seer_edge.training.reporter import Reporter
from seer_edge.training.session import Session
from seer_runtime import durable

LOG = logging.getLogger(__name__)


class CheckpointPolicy:
    """Saves the checkpoints of a run: at intervals of steps or time, on request, and before a run that fails ends."""

    def __init__(self, folder: RunFolder, session: Session, reporter: Reporter) -> None:
        self._folder = folder
        self._session = session
        self._reporter = reporter
        self._saved_at = time.monotonic()
        self._before_freeze: int | None = None  # the step at which this process saved before it froze
        self._written_config = session.config  # the settings in the folder's `config.json`

    def save(self) -> Path:
        """Publish a checkpoint; return its folder.

        Raises OSError if the disk cannot be written, RunStoppedError if training diverged.
        """
        self._reporter.sync()
        timestep = self._session.timestep
        if self._stays(timestep):
            path = self._folder.checkpoints / durable.checkpoint_name(timestep)
        else:
            path = checkpoint.save(self._session.snapshot(), self._folder.checkpoints, self._reporter.state())
        outcome = self._reporter.outcome
        outcome.checkpoint, self._saved_at = timestep, time.monotonic()
        LOG.debug("wrote %s", path)
        config = self._session.config
        if self._written_config != config:  # the freeze chose the codec
            self._folder.write_config(config)
            self._written_config = config
        return path

    def save_before_freeze(self) -> Path:
        """Save the state that the freeze is about to change. Raises as `save`."""
        path = self.save()
        self._before_freeze = self._session.timestep
        return path

    def _stays(self, timestep: int) -> bool:
        """Return whether the checkpoint of this step is not replaced, though the run has frozen since then.

        It stays if `--keep-checkpoint` keeps it, or if the row of the step is not logged yet. A run that resumes from
        there freezes again.
        """
        if self._before_freeze != timestep or self._reporter.outcome.freeze is None:
            return False
        return timestep in self._session.config.keep_checkpoint or self._reporter.logged_at < timestep

    def save_best(self) -> None:
        """Keep the agent as it is now, the best so far, in a separate folder. If the disk refuses, warn."""
        try:
            checkpoint.save(self._session.snapshot(), self._folder.best, self._reporter.state(), acting_only=True)
        except OSError as error:
            self._reporter.console.warn(f"{self._folder.best}: the best policy cannot be kept ({error})")

    def save_if_due(self) -> None:
        """Save if the interval is over. If the disk refuses, warn and continue: the last checkpoint is still there."""
        if not self._is_due():
            return
        try:
            self.save()
        except OSError as error:
            self._saved_at = time.monotonic()
            self._reporter.console.warn(
                f"no checkpoint at step {self._session.timestep:,} ({error}); the run continues, "
                f"the newest checkpoint is of step {self._reporter.outcome.checkpoint:,}"
            )

    def _is_due(self) -> bool:
        config, timestep = self._session.config, self._session.timestep
        if timestep in (self._reporter.outcome.checkpoint, config.total_timesteps):
            return False
        if timestep in config.keep_checkpoint:
            return True
        if config.checkpoint_every_steps is not None:
            return timestep % config.checkpoint_every_steps == 0
        return time.monotonic() - self._saved_at >= (config.checkpoint_every_seconds or 0)

    def rescue(self) -> None:
        """Try to save the steps since the last checkpoint of a run that is about to end with an error."""
        if self._reporter.outcome.checkpoint == self._session.timestep:
            return
        with contextlib.suppress(OSError, RunStoppedError):
            self._reporter.console.say(f"wrote {self.save()}")
