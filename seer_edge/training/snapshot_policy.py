"""When a run keeps the weights of its encoder and heads for `seer-edge analyze` (`--analyze`)."""

from seer_edge.runs.snapshots import Snapshots, Weights
from seer_edge.training.metrics import Console
from seer_edge.training.session import Session

COUNT = 20
"""Snapshots up to the freeze, after that of step 0. Layers that train on have as many over the whole run."""


class SnapshotPolicy:
    """Keeps snapshots at evenly spaced steps until the whole encoder is frozen. Changes nothing in the session."""

    def __init__(self, snapshots: Snapshots, session: Session, console: Console) -> None:
        """Drop the snapshots after the session's step, which the run makes again. Raises OSError."""
        self._snapshots = snapshots
        self._session = session
        self._console = console
        self._keeps = session.config.analyze
        if self._keeps:
            snapshots.drop_after(session.timestep)

    def save_if_due(self, frozen_at: int | None) -> None:
        """Keep the weights of this step if they are due; `frozen_at` is the step of the freeze, if it has happened.

        If the disk refuses, warn and continue. A snapshot that is there is kept.
        """
        timestep = self._session.timestep
        if not self._keeps or not self._is_due(frozen_at) or self._snapshots.path(timestep).exists():
            return
        try:
            self._snapshots.write(timestep, self._weights())
        except OSError as error:
            self._console.warn(f"no snapshot at step {timestep:,} ({error}); the run continues")

    def _weights(self) -> Weights:
        agent = self._session.agent
        return {**agent.encoder_weights(), **agent.head_weights()}

    def _is_due(self, frozen_at: int | None) -> bool:
        timestep, config = self._session.timestep, self._session.config
        if timestep in (0, frozen_at):
            return True
        if frozen_at is not None and self._session.agent.encoder.spec.whole:
            return False
        freeze_at = config.freeze_at or 0
        span = freeze_at if timestep <= freeze_at else config.total_timesteps
        return timestep * COUNT // span > (timestep - 1) * COUNT // span
