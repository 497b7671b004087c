"""Agents: they act and learn from batches. One module for each agent, with torch.

May import `config`, `envs` and `networks`.
Start with `agent.py` (`Agent`), then `rainbow.py`. `rainbow_reference.py` has Rainbow's update by
autograd, which is easier to read.
"""

import importlib

from seer_edge.agents.agent import Agent
from seer_edge.config.plan import BytePlan
from seer_edge.config.registry import ALGORITHMS


def make_agent(plan: BytePlan, *, seed: int) -> Agent:
    """Build the agent of a run, with initial weights drawn from `seed`."""
    config, networks = plan.config, plan.networks
    module, _, name = ALGORITHMS[config.algo].agent.partition(":")
    build = getattr(importlib.import_module(module), name)
    settings = config.settings.for_run(config.schedule_steps)
    agent: Agent = build(networks.encoder, networks.head, settings, seed=seed, device=config.device)
    return agent
