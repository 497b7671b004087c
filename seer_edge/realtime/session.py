"""The learner's side of a run in real time: it stores what the control thread did, and learns in between."""

import time
from collections.abc import Mapping
from typing import Any

from seer_edge.config.plan import BytePlan
from seer_edge.config.real_time import limits_asked
from seer_edge.envs import Episode
from seer_edge.envs.safety import limits_of
from seer_edge.realtime.control import Control
from seer_edge.realtime.feed import Began, Feed
from seer_edge.realtime.figures import Totals
from seer_edge.realtime.pilot import Pilot
from seer_edge.training.components import LatentPhase
from seer_edge.training.session import Session, StepReport
from seer_edge.training.updates import Updates
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.system.state import State


class RealTimeSession(Session):
    """A session whose environment is stepped by a control thread.

    Each `step` stores one step of the environment, and then learns until the next one waits, at most
    `max_updates_per_step` times. All methods but `open_control` belong to the learner's thread.

    Attributes:
        pilot: acts and feeds this session; set by `open_control`.
        control: the loop that uses the pilot; set by `open_control`.
        feed: what the control thread has done and the session has not stored yet.
        totals: figures of the run so far.

    """

    pilot: Pilot
    control: Control

    def __init__(self, *parts: Any) -> None:
        """Take the parts of a `Session`."""
        super().__init__(*parts)
        self.feed = Feed(self.plan.env.frame_shape, self.ledger, self.plan.feed_frames)
        self.totals = Totals()
        self._running = False  # whether the newest stored row belongs to an unfinished episode

    def _make_updates(self) -> Updates:
        """Return updates of this thread: the control thread has a copy of the agent to act with."""
        return Updates(self.agent, self.replay)

    def open_control(self) -> Control:
        """Return the control of this session, before its first step. No update may be running."""
        encoder = None if self.graph is None else self._own_encoder(self.graph)
        seed = self.seeds.exploration + self.timestep
        self.pilot = Pilot(self.plan, self.agent, encoder, self.ledger, self.feed, seed=seed, timestep=self.timestep)
        asked = limits_asked(self.config)
        assert asked is not None
        limits = limits_of(self.env.spec, self.env.safety, asked)
        self.control = Control(self.env, self.pilot, self.feed, 1 / asked.hz, limits)
        return self.control

    def _own_encoder(self, graph: bytes) -> OnnxEncoder:
        """Open the frozen encoder once more: its output is valid until its next call, which is another thread's."""
        return OnnxEncoder(graph, threads=self.config.threads, ledger=self.ledger, device=self.config.device)

    @property
    def is_paused(self) -> bool:
        """See `Session`."""
        control: Control | None = getattr(self, "control", None)
        return control is not None and control.is_paused

    # --- one step ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Do nothing: the control thread begins the episodes."""

    def step(self) -> StepReport:
        """Store one step of the environment, and learn until the next one waits.

        Raises ControlEndedError if none will come, the environment's errors, RunStoppedError if a loss is not finite.
        """
        begin = time.perf_counter()
        episode = self._interact()
        loss, made = None, 0
        while made < self.config.max_updates_per_step and not self.feed.waiting:
            self.agent.refresh()
            self.pilot.publish(self.agent)
            batch = self._sample()
            loss = self.updates.finish(batch, self.timestep)
            if batch is None:
                break
            made += 1
        self.totals.learned(made, learning=self.timestep > self.config.settings.learning_starts)
        return StepReport(time.perf_counter() - begin, loss, episode)

    def _interact(self) -> Episode | None:
        """Store the next step that the control thread took; return the episode that it ended."""
        while True:
            event = self.feed.take()
            if isinstance(event, Began):
                self._begin(event)
                continue
            step = event.step
            if step.discard:
                self._skip(step)
                self._running = not (step.terminated or step.truncated)
                continue
            self._store(event.action, step)
            self._running = not (step.terminated or step.truncated)
            if self._running:
                self.observed = self.perception.observe(step.frame, first=False)
            return step.episode

    def _begin(self, event: Began) -> None:
        if self._running:  # it was cut by an evaluation, or steps were dropped
            self.replay.interrupt(self.observed.row)
        elif not event.new_scene:
            self.replay.continue_scene()
        self.observed = self.perception.observe(event.frame, first=event.new_scene or self._running)
        self._running = True

    def drop_waiting(self) -> int:
        """Count the steps that wait as dropped, once the control loop has ended; return how many."""
        lost = self.feed.waiting
        self.feed.dropped += lost
        self.totals.dropped += lost  # at once, because no log interval may follow
        return lost

    # --- the freeze ----------------------------------------------------------------------------------------

    def switch_to_latents(self, plan: BytePlan, latents: LatentPhase) -> int:
        """Freeze and convert as `Session` does, while the control thread acts with its copy of the encoder."""
        encoder = self._own_encoder(latents.graph)
        rows = super().switch_to_latents(plan, latents)
        self.pilot.switch(plan, encoder, self.agent)
        return rows

    # --- state and figures ---------------------------------------------------------------------------------

    def _saved_environment(self) -> State | None:
        return None  # the control thread is stepping it

    def _restore_environment(self, state: State | None) -> str | None:
        return "an environment in real time is not saved"

    def interval_figures(self) -> dict[str, float]:
        """See `Session`."""
        return self.totals.end_interval(self.config, self.control.ticks, self.pilot, self.feed)

    def summary_figures(self) -> Mapping[str, Any] | None:
        """See `Session`."""
        return self.totals.to_json(self.config)
