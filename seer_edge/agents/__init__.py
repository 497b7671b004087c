"""Agents: what acts and learns from batches."""

from seer_edge.agents.agent import Agent
from seer_edge.algorithms import SacNetworks
from seer_edge.plan import BytePlan
from seer_edge.presets import RainbowSettings, SacSettings


def make_agent(plan: BytePlan, *, seed: int) -> Agent:
    """The agent of a run, with weights drawn from `seed`."""
    networks, settings, device = plan.networks, plan.config.settings, plan.config.device
    if isinstance(networks, SacNetworks):
        from seer_edge.agents.curl_sac import CurlSacAgent

        assert isinstance(settings, SacSettings)
        return CurlSacAgent(networks.encoder, networks.head, settings, seed=seed, device=device)
    from seer_edge.agents.rainbow import RainbowAgent

    assert isinstance(settings, RainbowSettings)
    return RainbowAgent(networks.encoder, networks.head, settings, seed=seed, device=device)
