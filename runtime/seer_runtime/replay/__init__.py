"""Observations inside the budget: one arena, rows of frames or latents, sampling, and the conversion at the freeze.

May import `durable` and `system`.
Start with `store.py` (rows in the arena), then `replay.py` (batches) and `convert.py` (frames to latents in place).
"""
