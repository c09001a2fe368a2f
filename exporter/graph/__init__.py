"""From the reference model to a portable ONNX graph, one transform per file."""
