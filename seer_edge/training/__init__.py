"""The training loop, and everything that happens between two steps: freeze, evaluation, reports, checkpoints.

May import `runs`, `agents`, `machine`, `config`, `networks` and `envs`. Imports torch.
Start with `session.py` (one step) and `updates.py` (learning beside it), then `freeze.py`, then `run.py` (a run from
start to exit status, with `reporter.py` and `checkpoint_policy.py`).
"""
