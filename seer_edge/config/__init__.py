"""A run as data: settings, presets, the registry of agents, and the byte plan. No torch.

May import `networks` (sizes only) and `envs`.
Start with `config.py` (`TrainConfig`), then `plan.py` (bytes and capacities) and `registry.py` (the agents).
"""
