"""Networks: their sizes and costs (`spec.py`, `flops.py`, without torch), torch modules and ONNX graphs.

May import no other folder of seer_edge.
Start with `spec.py` (`EncoderSpec`), then `encoder.py` (its torch module) and `graph.py` (its ONNX graph).
"""
