"""Analysis of encoders: how similar their layers are at two steps, where they look, and what latents they produce.

`similarity.py` and `attention.py` are mathematics on arrays and import only numpy, so `training` may use them too.
"""
