"""Networks: torch-free specifications, the torch modules built from them, and the ONNX graph of an encoder."""
