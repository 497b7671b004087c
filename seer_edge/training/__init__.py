"""The training loop and everything that happens between two steps: freeze, evaluation, metrics, checkpoint policy.

May import `runs`, `agents`, `machine`, `config`, `networks` and `envs`. Imports torch.
Start with `session.py` (one step), then `run.py` (a run from start to exit status) and `freeze.py`.
"""
