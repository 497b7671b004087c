"""Sweeps: many runs from one file, on this machine.

May import runs, machine, config and envs. Imports no torch: every run is a separate process.
Start with `spec.py` (from a file to jobs), then `runner.py` (which job comes next) and `engine.py` (where jobs run).
"""
