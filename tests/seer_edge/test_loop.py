"""What a step of the loop passes on, and when it learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.envs import Discrete, EnvSpec, Step
from seer_edge.envs.guarded import Guarded
from seer_edge.errors import EnvironmentFailedError, RunStoppedError
from seer_edge.evaluate import evaluate_session
from seer_edge.games import play
from seer_runtime.perception import Observed
from tests.seer_edge.freeze_rig import Rig


def test_learning_begins_after_learning_starts_and_not_before(rig: Callable[..., Rig]) -> None:
    run = rig(learning_starts=90)
    losses = [run.session.step().loss for _ in range(95)]
    assert [loss is not None for loss in losses] == [False] * 90 + [True] * 5
    assert run.session.agent.updates == 5


def test_sampling_is_told_how_much_of_the_run_is_over(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    run = rig(learning_starts=90)
    seen: list[float] = []
    sample = run.session.replay.sample
    monkeypatch.setattr(run.session.replay, "sample", lambda progress: seen.append(progress) or sample(progress))
    for _ in range(95):
        run.session.step()
    total = run.plan.config.total_timesteps
    assert seen == [step / (total - 90) for step in (1, 2, 3, 4, 5)]


def test_a_loss_that_is_not_finite_stops_the_run(rig: Callable[..., Rig]) -> None:
    run = rig(learning_starts=90)
    for _ in range(90):
        run.session.step()
    agent = run.session.agent
    head = agent.head if isinstance(agent, RainbowAgent) else agent.critic.qs
    next(iter(head.parameters())).data.fill_(float("nan"))
    with pytest.raises(RunStoppedError, match="the loss at step 91 is nan"):
        run.session.step()


class Still:
    """Frames of zeros, three actions, no end; remembers what was done."""

    spec = EnvSpec("Still-v0", "Still", (4, 4), (4, 4), Discrete(3))

    def __init__(self, reward: float = 0.0) -> None:
        self.actions: list[int] = []
        self.reward = reward

    def reset(self) -> Any:
        return np.zeros((4, 4), np.uint8)

    def step(self, action: int) -> Step:
        self.actions.append(action)
        return Step(self.reset(), self.reward, False, False, None)

    def close(self) -> None: ...


class Whole:
    """Perceives a frame as it is."""

    def observe(self, frame: Any, *, first: bool) -> Observed:
        return Observed(frame, frame)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_evaluation_explores_with_epsilon(epsilon: float) -> None:
    env, steps = Still(), 6_000
    games = play(env, Whole(), lambda observed: 2, epsilon=epsilon, rng=np.random.default_rng(0))
    for _ in range(steps):
        next(games)
    share = np.bincount(env.actions, minlength=3) / steps
    np.testing.assert_allclose(share, [epsilon / 3, epsilon / 3, 1 - 2 * epsilon / 3], atol=0.02)


def test_evaluation_uses_the_settings_epsilon(rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    run, seen = rig(), []

    def evaluate(*unused: Any, **given: Any) -> None:
        seen.append((given["epsilon"], given["episodes"]))

    monkeypatch.setattr("seer_edge.evaluate.evaluate", evaluate)
    evaluate_session(run.plan, run.session, lambda: False, lambda count: None)
    assert seen == [(run.plan.config.settings.evaluation_epsilon, run.plan.config.eval_episodes)]


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_rewards_that_are_not_finite_are_the_environments_failure(reward: float) -> None:
    with pytest.raises(EnvironmentFailedError, match="a reward of"):
        Guarded(Still(reward)).step(0)
