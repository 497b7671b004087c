"""The control thread: at each tick it acts on the newest observation, and never waits for the learner."""

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from seer_edge.agents.actor import Actors
from seer_edge.agents.agent import Agent
from seer_edge.config.config import TrainConfig
from seer_edge.config.plan import BytePlan
from seer_edge.envs import Action, EnvSpec, Frame, Step
from seer_edge.envs.durations import Durations
from seer_edge.envs.games import Evaluation, evaluate
from seer_edge.envs.guarded import Guarded
from seer_edge.envs.recorder import Recorder
from seer_edge.envs.ticks import Ticks
from seer_edge.realtime.feed import Began, ControlEndedError, Feed, Stepped
from seer_edge.training.components import latent_perception, new_perception
from seer_runtime.onnx.encoder import OnnxEncoder
from seer_runtime.policy.perception import LatentPerception, Observed
from seer_runtime.system.ledger import Ledger

LOG = logging.getLogger(__name__)
SWITCH_SECONDS = 0.0005
"""How long another thread may hold Python's global lock while the control thread wants it. Python's default is 5 ms."""
IDLE_SECONDS = 0.02


class Paced:
    """The environment with one step for each tick."""

    def __init__(self, env: Guarded, ticks: Ticks) -> None:
        self._env, self._ticks = env, ticks

    @property
    def spec(self) -> EnvSpec:
        """See `Environment`."""
        return self._env.spec

    @property
    def new_scene(self) -> bool:
        """See `Environment`."""
        return self._env.new_scene

    def reset(self) -> Frame:
        """Start an episode. The next tick is one period after it."""
        frame = self._env.reset()
        self._ticks.restart()
        return frame

    def step(self, action: Action) -> Step:
        """Take one step, which ends with a tick."""
        with self._ticks.one():
            return self._env.step(action)


@dataclass
class Figures:
    """What the control thread counts in a log interval."""

    age: Durations = field(default_factory=Durations)  # from the tick at which an observation was made to its action
    steps: int = 0


@dataclass
class _Request:
    """An evaluation that the learner waits for."""

    play: Callable[[], Evaluation | None]
    done: threading.Event = field(default_factory=threading.Event)
    result: Evaluation | None = None


class Control:
    """Steps the environment at a fixed rate in the thread that calls `run`, and feeds the learner.

    `agent` and `encoder` are the first that it acts with. `timestep` is the step at which it starts.

    Attributes:
        actors: the networks that act. The learner publishes new ones.
        ticks: the clock.
        figures: of this log interval.

    """

    def __init__(
        self,
        plan: BytePlan,
        env: Guarded,
        agent: Agent,
        encoder: OnnxEncoder | None,
        ledger: Ledger,
        feed: Feed,
        *,
        seed: int,
        timestep: int,
    ) -> None:
        assert plan.config.hz is not None
        self._plan, self._env, self._ledger, self._feed = plan, env, ledger, feed
        self._exploration, noise = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        self.ticks = Ticks(1 / plan.config.hz)
        self.actors = Actors(lambda: agent.actor(noise))
        self.figures = Figures()
        self._paced = Paced(env, self.ticks)
        self._perception = new_perception(plan, encoder, ledger)
        self._encoder = encoder
        self._given = timestep  # steps that the learner has or will get
        self._observed: Observed
        self._request: _Request | None = None
        self._ended = False

    # --- control thread ------------------------------------------------------------------------------------

    def run(self, stop: Callable[[], bool]) -> None:
        """Act until `stop()` or `end`. The environment's errors go to the learner."""
        error: BaseException | None = None
        try:
            with _prompt_thread():
                self._begin()
                while not (self._ended or stop()):
                    if self._request is not None:
                        self._answer(self._request)
                    elif self._given >= self._plan.config.total_timesteps:
                        time.sleep(IDLE_SECONDS)  # nothing more to learn
                    else:
                        self._tick()
        except BaseException as raised:
            error = raised
        self._feed.end(error)
        if self._request is not None:
            self._request.done.set()
        while not self._ended:
            time.sleep(IDLE_SECONDS)

    def _begin(self) -> None:
        frame = self._paced.reset()
        self._feed.put(Began(frame, self._env.new_scene))
        self._observe(frame, first=self._env.new_scene)

    def _tick(self) -> None:
        action = self._act()
        self.figures.age.add(time.monotonic() - self.ticks.at)
        step = self._paced.step(action)
        self.figures.steps += 1
        if self._feed.put(Stepped(action if step.action is None else step.action, step)) and not step.discard:
            self._given += 1
        if step.terminated or step.truncated:
            self._begin()
            return
        self._observe(step.frame, first=False)
        if self._feed.gap:
            self._feed.put(Began(step.frame, True))

    def _act(self) -> Action:
        if self._given < self._plan.config.settings.random_steps:
            return self._env.spec.actions.sample(self._exploration)
        with self.actors.acting() as actor:
            if actor.reads_latents:
                self._read_latents()
            return actor.explore(self._observed.input, self._given)

    def _observe(self, frame: Frame, *, first: bool) -> None:
        self._observed = self._perception.observe(frame, first=first)

    def _read_latents(self) -> None:
        """Perceive latents from now on, at the first action after the freeze."""
        if isinstance(self._perception, LatentPerception):
            return
        assert self._encoder is not None
        before, stack = self._perception, self._perception.stack
        self._perception = latent_perception(self._plan, stack, self._encoder, self._ledger, views_seed=None)
        self._observed = self._perception.current()
        before.release()

    def _answer(self, request: _Request) -> None:
        """Play an evaluation, and begin a new training episode afterwards."""
        try:
            with self.actors.acting() as actor:
                if actor.reads_latents:
                    self._read_latents()
            request.result = request.play()
            self._begin()
        finally:
            self._request = None
            request.done.set()

    # --- learner -------------------------------------------------------------------------------------------

    def publish(self, agent: Agent) -> None:
        """Act with the networks of `agent` as they are now. No update may be running."""
        self.actors.publish(agent)

    def switch(self, plan: BytePlan, encoder: OnnxEncoder, agent: Agent) -> None:
        """Act on the latents of `encoder` from the next tick on."""
        self._plan, self._encoder = plan, encoder
        self.publish(agent)

    def evaluate(
        self,
        rng: np.random.Generator,
        stop: Callable[[], bool],
        played: Callable[[int], object],
        recorder: Recorder | None,
    ) -> Evaluation | None:
        """Let the control thread play an evaluation; return None if `stop` came first. The running episode is cut.

        Raises ControlEndedError if the control thread has ended.
        """
        config = self._plan.config

        def greedy(observed: Observed) -> Action:
            with self.actors.acting() as actor:
                return actor.greedy(observed.input)

        def play() -> Evaluation | None:
            return evaluate(
                self._paced,
                self._perception,
                greedy,
                episodes=config.eval_episodes,
                epsilon=config.settings.evaluation_epsilon,
                rng=rng,
                max_steps=config.eval_max_steps,
                stop=stop,
                played=played,
                recorder=recorder,
            )

        request = _Request(play)
        self._request = request
        request.done.wait()
        if request.result is None and not stop():
            raise ControlEndedError
        return request.result

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self._plan.config

    def drain(self) -> Figures:
        """Return the figures of the interval, and begin the next one."""
        drained, self.figures = self.figures, Figures()
        return drained

    def end(self) -> None:
        """Let `run` return."""
        self._ended = True


@contextmanager
def _prompt_thread() -> Iterator[None]:
    """Context manager: let this thread run soon after it wakes, and collect no garbage of what lives anyway."""
    interval = sys.getswitchinterval()
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
