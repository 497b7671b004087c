"""ONNX graphs: a checker for untrusted files, and the frozen encoder and the head in ONNX Runtime.

May import `durable` and `system`. The third-party package `onnx` is not imported here.
Start with `encoder.py`, then `check.py` (the rules a graph must meet).
"""
