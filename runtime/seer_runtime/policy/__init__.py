"""Acting: preprocess frames to observations, and load a policy from one file.

May import `replay`, `onnx`, `durable` and `system`.
Start with `policy.py` (`Policy`), then `perception.py`, `preprocess.py` and `bundle.py` (the file format).
"""
