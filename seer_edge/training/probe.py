"""A probe: observations that a checkpoint's policy sees, in an environment opened for it."""

from collections.abc import Callable
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from seer_edge.config.plan import BytePlan
from seer_edge.config.real_time import limits_asked
from seer_edge.envs.environment import Frame
from seer_edge.envs.games import game_seeds, play
from seer_edge.envs.guarded import ending
from seer_edge.envs.paced import in_real_time
from seer_edge.runs.checkpoint import Saved
from seer_edge.training.components import new_perception, open_env
from seer_edge.training.evaluate import load_agent
from seer_runtime.policy.perception import Observed, Perception
from seer_runtime.replay.crops import Crop
from seer_runtime.system.ledger import Ledger
from seer_runtime.system.state import State

EPSILON = 0.1
"""Probability of a random action. A policy that stands still would show the same observation again and again."""


class _Recorder:
    """Perceives as `perception` does, and keeps each observation until there are enough.

    Attributes:
        stacks: uint8 `[rows, C, h, w]`, the center crops of the frame stacks.
        filled: `[rows]`, whether no frame of the stack is blank.
        count: observations so far, at most `rows`.

    """

    def __init__(self, perception: Perception, crop: Crop, rows: int) -> None:
        frames = perception.stack.frames
        self._perception, self._crop, self._age = perception, crop, 0
        self._depth = len(frames)
        self._cut = np.empty((rows, *frames.shape[:-2], *crop.size), np.uint8)
        self.stacks = self._cut.reshape(rows, -1, *crop.size)
        self.filled = np.zeros(rows, np.bool_)
        self.count = 0

    def observe(self, frame: Frame, *, first: bool) -> Observed:
        observed = self._perception.observe(frame, first=first)
        self._age = 1 if first else self._age + 1
        if self.count < len(self.filled):
            self._crop.cut(self._perception.stack.frames, self._crop.center, self._cut[self.count])
            self.filled[self.count] = self._age >= self._depth
            self.count += 1
        return observed


def collect(
    plan: BytePlan, saved: Saved, state: State, rows: int, done: Callable[[int], object]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Play until there are `rows` observations; return them `[rows, C, h, w]`, and whether each has a full stack.

    `state` is that of the checkpoint's agent. The same run and checkpoint give the same observations. `done` is called
    with the number of observations so far. Raises BadInputError if the checkpoint is not one of this version, and
    EnvironmentFailedError.
    """
    ledger = Ledger({})
    agent, encoder = load_agent(plan, saved, state, ledger)
    env_seed, rng = game_seeds(plan.config.seed, saved.timestep)
    recorder = _Recorder(new_perception(plan, encoder, ledger), plan.crop, rows)
    with (
        closing(open_env(plan, seed=env_seed, training=False, on_hang=ending("analyze"))) as env,
        in_real_time(env, limits_asked(plan.config)) as playing,
    ):
        limit = plan.config.eval_max_steps
        for _ in play(
            playing,
            recorder,
            lambda observed: agent.greedy(observed.input),
            epsilon=max(EPSILON, plan.config.settings.evaluation_epsilon),
            rng=rng,
            max_steps=limit,
        ):
            done(recorder.count)
            if recorder.count == rows:
                return recorder.stacks, recorder.filled
    raise AssertionError("play does not end by itself")
