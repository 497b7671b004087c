"""Networks: sizes and costs first (`spec.py`, `flops.py`, no torch), then torch modules and ONNX graphs.

May import no other folder of seer_edge.
Start with `spec.py` (`EncoderSpec`), then `encoder.py` (its torch module) and `graph.py` (its ONNX graph).
"""
