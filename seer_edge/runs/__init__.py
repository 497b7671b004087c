"""A run on the disk: its folder, its checkpoints, and what another run may import from them.

May import `agents`, `config`, `networks` and `envs`.
Start with `run_folder.py`, then `checkpoint.py` (one saved state) and `transfer.py` (`--from`).
"""
