"""Whether ONNX Runtime's int8 products are exact on this processor without an option of a session.

On x86 without VNNI its kernels add pairs of 16-bit products in 16 bits, and the sum saturates. The
figure is measured and not looked up: what decides is the kernel that this build of it takes here.
"""

from __future__ import annotations

import numpy as np

CHANNELS = 64


def default_products_are_exact() -> bool | None:
    """Multiply the largest int8 numbers in a session with default options, and compare.

    Returns:
        None where ONNX Runtime is missing or cannot run the product.
    """
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            _graph(), options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(None, {"x": np.full((1, CHANNELS), 127, np.float32)})
    except Exception:  # a broken binary can raise anything; the software's own line says so
        return None
    return bool((np.asarray(found) == 127 * 127 * CHANNELS).all())


def _graph() -> bytes:
    """`x @ w` in explicit quantization, all scales 1 and every weight 127."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "one": np.float32(1),
        "ones": np.ones(CHANNELS, np.float32),
        "zero": np.int8(0),
        "w": np.full((CHANNELS, CHANNELS), 127, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["stored"]),
        helper.make_node("DequantizeLinear", ["stored", "one", "zero"], ["restored"]),
        helper.make_node("DequantizeLinear", ["w", "ones"], ["weight"], axis=1),
        helper.make_node("MatMul", ["restored", "weight"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", CHANNELS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CHANNELS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
