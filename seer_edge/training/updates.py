"""The updates of a session: on the calling thread, or on a worker thread one step behind the environment."""

import math
import threading
from dataclasses import dataclass
from typing import Any

from seer_edge.agents.agent import Agent, UpdateResult
from seer_edge.errors import RunStoppedError
from seer_edge.training.worker import WorkerThread
from seer_runtime.replay.replay import Batch, Replay


@dataclass(frozen=True)
class PreparedBatch:
    """A sampled batch, and what `Agent.prepare` computed from it before its update."""

    batch: Batch
    prepared: Any


class Updates:
    """Updates on the calling thread: each step learns from the batch that it sampled (`--pipeline off`).

    Every method that ends an update writes the new priorities to the replay. It raises RunStoppedError with the step
    `timestep` if the loss is not finite.

    Attributes:
        pending: the sampled batch that no update has learned from yet.

    """

    def __init__(self, agent: Agent, replay: Replay) -> None:
        self.pending: PreparedBatch | None = None
        self._agent = agent
        self._replay = replay

    def start(self) -> None:
        """Refresh the agent, and start the update that runs during this step, if there is one."""
        self._agent.refresh()

    def finish(self, batch: PreparedBatch | None, timestep: int) -> float | None:
        """End the step that sampled `batch`; return the loss of the update that it made, or None."""
        self.pending = batch
        return self.flush(timestep)

    def wait(self, timestep: int) -> float | None:
        """Wait for a running update; return its loss, or None if none is running."""
        return None

    def flush(self, timestep: int) -> float | None:
        """Wait for a running update and learn from the pending batch; return the last loss, or None."""
        if self.pending is None:
            return None
        due, self.pending = self.pending, None
        return self._record(due.batch, self._agent.update(due.batch, due.prepared), timestep)

    def _record(self, batch: Batch, result: UpdateResult, timestep: int) -> float:
        if not math.isfinite(result.loss):
            raise RunStoppedError(f"the loss at step {timestep} is {result.loss}: training diverged")
        self._replay.update_priorities(batch.row_ids, result.priorities)
        return result.loss


class PipelinedUpdates(Updates):
    """Updates on a worker thread: each step learns from the batch of the step before (`--pipeline on`)."""

    def __init__(self, agent: Agent, replay: Replay) -> None:
        super().__init__(agent, replay)
        agent.act_beside_updates()
        self._worker: WorkerThread[UpdateResult] = WorkerThread()
        self._running: Batch | None = None
        self._refreshing = threading.Lock()

    def start(self) -> None:
        """Refresh the agent while the worker thread begins the update from the pending batch."""
        with self._refreshing:
            self._learn()
            self._agent.refresh()

    def _learn(self) -> None:
        """Start the update from the pending batch, if there is one."""
        if self.pending is not None:
            due, self.pending = self.pending, None
            self._worker.start(lambda: self._agent.update(due.batch, due.prepared, self._refreshed))
            self._running = due.batch

    def _refreshed(self) -> None:
        with self._refreshing:
            pass

    def finish(self, batch: PreparedBatch | None, timestep: int) -> float | None:
        """Wait for the running update and keep `batch` for the next step; return the update's loss, or None."""
        loss = self.wait(timestep)
        self.pending = batch
        return loss

    def wait(self, timestep: int) -> float | None:
        """Wait for a running update; return its loss, or None if none is running."""
        batch, self._running = self._running, None
        return None if batch is None else self._record(batch, self._worker.result(), timestep)

    def flush(self, timestep: int) -> float | None:
        """Wait for a running update and learn from the pending batch; return the last loss, or None."""
        loss = self.wait(timestep)
        if self.pending is None:
            return loss
        # The running update changed the networks after the last refresh.
        self._agent.refresh(new_noise=False)
        # On the same thread as the others: what PyTorch keeps for an update, it keeps for each thread.
        self._learn()
        return self.wait(timestep)
