"""A graph of one int8 product, by which a runtime's integer kernels are judged on a processor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def quantized_product(weight: NDArray[np.int8]) -> bytes:
    """`x @ weight` in explicit quantization, all scales 1 and all zero points 0, as an ONNX model.

    Args:
        weight: int8 `(C, K)`.

    Returns:
        the serialized model, from `x` float `(rows, C)`, whole numbers of int8, to `y` `(rows, K)`.
    """
    from onnx import TensorProto, helper, numpy_helper

    channels, columns = weight.shape
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "one", "zero"], ["stored"]),
        node("DequantizeLinear", ["stored", "one", "zero"], ["restored"]),
        node("DequantizeLinear", ["weight", "ones", "zeros"], ["factor"], axis=1),
        node("MatMul", ["restored", "factor"], ["y"]),
    ]
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "weight": weight,
        "ones": np.ones(columns, np.float32),
        "zeros": np.zeros(columns, np.int8),
    }
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", channels])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", columns])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
