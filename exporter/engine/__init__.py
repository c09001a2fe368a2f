"""TensorRT engines from the ONNX graph: TensorRT and TensorRT-RTX through one code path."""
