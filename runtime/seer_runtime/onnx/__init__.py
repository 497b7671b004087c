"""ONNX graphs: a checker for untrusted files, and the frozen encoder and the head in ONNX Runtime.

May import `durable` and `system`. Must not import the third-party package `onnx`.
Start with `encoder.py`, then `check.py` (the rules that a graph must meet).
"""
