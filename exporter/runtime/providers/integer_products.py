"""Whether a runtime multiplies int8 numbers exactly on this processor, found by multiplying some.

x86 processors without VNNI have no instruction for such products. ONNX Runtime's and OpenVINO's
kernels then add pairs of them in 16 bits, which saturate without a word: with weights and
activations near 127, sums are wrong by a quarter and more (OpenVINO 2026.4).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.runtime.providers.onnx_session import open_graph
from exporter.runtime.runtime_options import DEFAULTS

_ROWS, _CHANNELS, _COLUMNS = 5, 256, 64
_LARGEST = {7: 64, 8: 127}


def onnxruntime_is_exact() -> bool | None:
    """Whether ONNX Runtime's products are exact in a session without an option for it.

    None where ONNX Runtime is missing or cannot run the product.
    """
    rows, weight, content = _product(8)
    try:
        # Weights of 7 bits are what a session leaves to any kernel; these have 8.
        session, _ = open_graph(Path("int8 product"), DEFAULTS, content=content, weight_bits=7)
        (found,) = session.run(None, {"x": rows})
    except Exception:  # a broken binary can raise anything; the software's own line says so
        return None
    return bool(np.array_equal(found, rows @ weight))


def openvino_is_exact(core: Any, device: str, weight_bits: int = 8) -> bool:
    """Whether products of an `openvino.Core` are exact on a device.

    Weights of 7 bits are within -64..64; their products are exact on more processors.
    """
    rows, weight, content = _product(weight_bits)
    compiled = core.compile_model(core.read_model(content), device, {})
    return bool(np.array_equal(compiled({"x": rows})[0], rows @ weight))


def _product(weight_bits: int) -> tuple[NDArray[np.float32], NDArray[np.float32], bytes]:
    """Numbers of the largest size, `(5, 256)` and `(256, 64)`, and a graph of their product."""
    rows = np.random.default_rng(0).choice([-127, 127], (_ROWS, _CHANNELS))
    rows[0] = 127
    weight = np.full((_CHANNELS, _COLUMNS), _LARGEST[weight_bits], np.int8)
    # Sums stay below 2^24, so that fp32 holds them.
    return rows.astype(np.float32), weight.astype(np.float32), quantized_product(weight)


def quantized_product(weight: NDArray[np.int8]) -> bytes:
    """`x @ weight` in explicit quantization, all scales 1 and zero points 0, as an ONNX model.

    From `x` float `(rows, C)`, whole numbers of int8, to `y` `(rows, K)`; `weight` is `(C, K)`.
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
    constants = {"one": np.float32(1), "ones": np.ones(columns, np.float32), "weight": weight}
    constants |= {"zero": np.int8(0), "zeros": np.zeros(columns, np.int8)}
    sides = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size])
        for name, size in (("x", channels), ("y", columns))
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, "product", sides[:1], sides[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content
