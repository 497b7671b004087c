"""The replay inside the byte budget: one arena for all rows, sampling, and the in-place conversion at the freeze.

May import `durable` and `system`.
Start with `store.py` (rows in the arena), then `replay.py` (batches) and `convert.py` (frames to latents in place).
"""
