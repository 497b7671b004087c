"""What acts in real time: frames in, actions out. The learner gets everything through a feed."""

import time

import numpy as np

from seer_edge.agents.actor import Actors
from seer_edge.agents.agent import Agent
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.envs import Action, Frame, Step
from seer_edge.envs.durations import Durations
from seer_edge.realtime.feed import Began, Feed, Stepped
from seer_edge.training.components import latent_perception, new_perception
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.perception import LatentPerception, Observed
from seer_runtime.system.ledger import Ledger


class Pilot:
    """Acts on the newest observation with copies of the agent's networks, and feeds the learner.

    `agent` and `encoder` are the first that it acts with. `timestep` is the step at which it starts. `publish` and
    `switch` belong to the learner's thread, all other methods to the thread that acts.

    Attributes:
        perception: turns frames into observations.
        age: from each observation to its action, in this log interval.

    """

    def __init__(
        self,
        plan: BytePlan,
        agent: Agent,
        encoder: OnnxEncoder | None,
        ledger: Ledger,
        feed: Feed,
        *,
        seed: int,
        timestep: int,
    ) -> None:
        self._plan, self._ledger, self._feed = plan, ledger, feed
        self._random, noise = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        self._actors = Actors(lambda: agent.new_actor(noise))
        self.perception = new_perception(plan, encoder, ledger)
        self.age = Durations()
        self._encoder = encoder
        self._given = timestep  # steps that the learner has or will get
        self._observed: Observed

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self._plan.config

    @property
    def is_done(self) -> bool:
        """Whether the learner has or will get all steps of the run."""
        return self._given >= self.config.total_timesteps

    # --- the thread that acts ------------------------------------------------------------------------------

    def begin(self, frame: Frame, *, new_scene: bool = True) -> None:
        """Begin an episode with its first frame."""
        self._feed.put(Began(frame, new_scene))
        self._observed = self.perception.observe(frame, first=new_scene)

    def act(self, observed_at: float) -> Action:
        """Return the training action for the newest observation, made at `observed_at` by `time.monotonic`."""
        if self._given < self.config.settings.random_steps:
            action = self._plan.env.actions.sample(self._random)
        else:
            with self._actors.acting() as actor:
                self._follow_freeze(reads_latents=actor.reads_latents)
                action = actor.explore(self._observed.input, self._given)
        self.age.add(time.monotonic() - observed_at)
        return action

    def greedy(self, observed: Observed) -> Action:
        """Return the action for an observation of `perception`, without exploration."""
        with self._actors.acting() as actor:
            return actor.greedy(observed.input)

    def follow_freeze(self) -> None:
        """Perceive latents if the actors do. `act` calls this too."""
        with self._actors.acting() as actor:
            self._follow_freeze(reads_latents=actor.reads_latents)

    def stepped(self, action: Action, step: Step) -> None:
        """Give a step to the learner. Without the end of an episode, its frame is the newest observation.

        The frame after a step that is discarded begins a scene, as it does for the learner.
        """
        kept = self._feed.put(Stepped(action if step.action is None else step.action, step))
        self._given += kept and not step.discard
        if step.terminated or step.truncated:
            return
        self._observed = self.perception.observe(step.frame, first=step.discard)
        if self._feed.gap:
            self._feed.put(Began(step.frame, new_scene=True))

    def _follow_freeze(self, *, reads_latents: bool) -> None:
        if not reads_latents or isinstance(self.perception, LatentPerception):
            return
        assert self._encoder is not None
        before = self.perception
        self.perception = latent_perception(self._plan, before.stack, self._encoder, self._ledger, views_seed=None)
        self._observed = self.perception.current()
        before.release()

    def drain(self) -> Durations:
        """Return the ages of the interval, and begin the next one."""
        drained, self.age = self.age, Durations()
        return drained

    # --- the learner's thread ------------------------------------------------------------------------------

    def publish(self, agent: Agent) -> None:
        """Act with the networks of `agent` as they are now. No update may be running."""
        self._actors.publish(agent)

    def switch(self, plan: BytePlan, encoder: OnnxEncoder, agent: Agent) -> None:
        """Act on the latents of `encoder` from the next action on."""
        self._plan, self._encoder = plan, encoder
        self.publish(agent)
