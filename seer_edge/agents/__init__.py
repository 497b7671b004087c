"""Agents: what acts and learns from batches."""

import importlib

from seer_edge.agents.agent import Agent
from seer_edge.config.plan import BytePlan
from seer_edge.config.registry import ALGORITHMS


def make_agent(plan: BytePlan, *, seed: int) -> Agent:
    """The agent of a run, with weights drawn from `seed`."""
    config, networks = plan.config, plan.networks
    module, _, name = ALGORITHMS[config.algo].agent.partition(":")
    build = getattr(importlib.import_module(module), name)
    agent: Agent = build(networks.encoder, networks.head, config.settings, seed=seed, device=config.device)
    return agent
