"""A run as data: settings, presets, the registry of agents, and the byte plan. No torch.

May import `networks` (sizes only) and `envs`.
Start with `request.py` (what a user asks for), `config.py` (`TrainConfig`), then `plan.py` (bytes and capacities),
`registry.py` (the agents) and `hyperparameters.py` (`--set` and preset files).
"""
