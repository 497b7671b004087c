"""A run on the disk: its folder, its checkpoints, and what another run may import from them.

May import `config`, `networks`, `envs` and `seer_runtime`. Imports no torch.
Start with `run_folder.py`, then `checkpoint.py` (one saved state). `source.py` opens what `--from` names, and
`transfer.py` checks that it fits the new run.
"""
