"""Byte accounting and the operating system: ledger, memory limits, process, service notification, units, state.

Must not import any other folder of seer_runtime.
Start with `ledger.py`, which allocates every array of the data plane.
"""
