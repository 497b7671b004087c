"""The replay inside the byte budget: one arena for all rows, sampling, and the in-place conversion at the freeze.

May import `durable` and `system`.
Start with `store.py` (ids and columns). The observations are in `storage.py` (rows of a fixed size) or `blocks.py`
(compressed rows). Then read `replay.py` (batches), `convert.py` and `convert_blocks.py` (frames to latents in place).
"""
