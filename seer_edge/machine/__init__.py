"""The computer that a run uses: memory, devices, threads, signals, and the checks of `seer-edge doctor`.

May import `config` and `envs`. Only `host.py` imports torch.
Start with `ceiling.py` (does a plan fit in memory?) and `doctor.py` (the report on this computer).
"""
