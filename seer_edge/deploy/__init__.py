"""Export a run as a bundle, and act from a bundle.

May import `runs`, `machine`, `config`, `networks` and `envs`. Imports no torch.
Start with `export.py` (write a bundle), then `act.py` (play with one).
"""
