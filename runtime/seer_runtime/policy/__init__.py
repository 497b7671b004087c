"""Acting: frames to observations, and a policy loaded from one file.

May import `replay` (crops), `onnx`, `durable` and `system`.
Start with `policy.py` (`Policy`), then `perception.py`, `preprocess.py` and `bundle.py` (the file format).
"""
