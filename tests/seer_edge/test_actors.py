"""Actors act as their agent did when they last copied its networks."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from seer_edge.agents.actor import Actor, Actors
from seer_edge.agents.rainbow import RainbowAgent
from seer_edge.config.plan import replan
from tests.seer_edge.freeze_rig import KINDS, Rig

pytestmark = pytest.mark.integration


def _rig(build_rig: Callable[..., Rig], kind: str) -> Rig:
    run = build_rig(kind, learning_starts=20, pipeline=False)
    run.steps(40)
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_counts_the_two_actors_of_a_run_in_real_time(build_rig: Callable[..., Rig], kind: str) -> None:
    run = build_rig(kind, pipeline=False)
    actor = run.session.agent.new_actor(np.random.default_rng(0))
    plan = replan(run.plan, hz=30.0)
    assert run.plan.acting_bytes == 0
    assert replan(run.plan, pipeline=True).acting_bytes == plan.acting_bytes // 2
    # In real time, --pipeline changes nothing.
    assert replan(plan, pipeline=True).acting_bytes == plan.acting_bytes
    assert plan.acting_bytes == pytest.approx(2 * _tensor_bytes(actor), rel=0.05)
    shared = plan.workspace_bytes - run.plan.workspace_bytes
    assert plan.rss_peak_bytes == run.plan.rss_peak_bytes + shared + plan.acting_bytes


def _tensor_bytes(actor: Actor[Any]) -> int:
    found = []
    for value in vars(actor).values():
        found += value.parameters() if isinstance(value, torch.nn.Module) else value if isinstance(value, list) else []
    return sum(tensor.nbytes for tensor in found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_an_actor_acts_as_the_agent_did_at_its_last_take(
    build_rig: Callable[..., Rig], kind: str, frozen: bool
) -> None:
    run = _rig(build_rig, kind)
    agent = run.session.agent
    actor = agent.new_actor(np.random.default_rng(0))
    if frozen:
        run.freeze()
        actor.take(agent)
    assert actor.reads_latents == frozen

    def greedy(of: Any) -> list[Any]:
        return [np.asarray(of.greedy(observed)).tolist() for observed in inputs]

    inputs = []
    for _ in range(12):
        run.session.step()
        inputs.append(run.session.observed.input.copy())
    actor.take(agent)
    then = greedy(agent)
    assert greedy(actor) == then
    for parameter in agent.state().arrays.values():
        if parameter.dtype == np.float32:
            parameter *= -3  # shares the agent's memory
    assert greedy(agent) != then, "the networks changed"
    assert greedy(actor) == then


def test_rainbow_draws_new_noise_for_each_action(build_rig: Callable[..., Rig]) -> None:
    run = _rig(build_rig, "rainbow")
    agent, observed = run.session.agent, run.session.observed.input
    assert isinstance(agent, RainbowAgent)
    for name, parameter in agent.head.named_parameters():
        if name.endswith("sigma"):
            parameter.data *= 30  # so that the noise decides
    before = agent.generator.get_state()
    first, second = (agent.new_actor(np.random.default_rng(seed)) for seed in (3, 3))
    drawn = [first.explore(observed, 50) for _ in range(30)]
    assert drawn == [second.explore(observed, 50) for _ in range(30)]
    assert len(set(drawn)) > 1
    assert len({first.greedy(observed) for _ in range(3)}) == 1
    assert (agent.generator.get_state() == before).all()


def test_sac_explores_with_a_stream_of_its_own(build_rig: Callable[..., Rig]) -> None:
    run = _rig(build_rig, "curl-sac")
    observed = run.session.observed.input
    before = run.session.agent.generator.get_state()
    first, second = (run.session.agent.new_actor(np.random.default_rng(seed)) for seed in (3, 3))
    drawn = [first.explore(observed, 50).tolist() for _ in range(4)]
    assert drawn == [second.explore(observed, 50).tolist() for _ in range(4)]
    assert len({tuple(action) for action in drawn}) == 4
    assert (run.session.agent.generator.get_state() == before).all()


class Numbered(Actor[Any]):
    """An actor whose networks are a number."""

    def __init__(self) -> None:
        self.number = 0

    def take(self, agent: Any) -> None:
        self.number = agent

    def explore(self, observation: Any, timestep: int) -> int:
        return self.number

    def greedy(self, observation: Any) -> int:
        return self.number


def test_an_action_is_never_computed_with_an_actor_that_changes() -> None:
    actors = Actors(Numbered)
    actors.publish(1)  # type: ignore[arg-type]
    published = []

    def publish() -> None:
        for number in (2, 3):
            actors.publish(number)  # type: ignore[arg-type]
            published.append(number)

    with actors.acting() as actor:
        learner = threading.Thread(target=publish)
        learner.start()
        while not published:
            pass
        learner.join(0.05)
        assert published == [2], "the second one would change the actor in use"
        assert actor.greedy(np.zeros(1)) == 1
    learner.join(30)
    assert published == [2, 3]
    with actors.acting() as actor:
        assert actor.greedy(np.zeros(1)) == 3
