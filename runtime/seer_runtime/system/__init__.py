"""Byte accounting and the operating system: ledger, memory limits, process, service notification, units, state.

Imports no other folder of seer_runtime.
Start with `ledger.py` (every array of the data plane is allocated through it).
"""
