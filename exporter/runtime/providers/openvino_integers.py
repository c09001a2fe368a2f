"""Whether OpenVINO's int8 products are those of integers on this processor.

On x86 without VNNI its kernels add pairs of 8-bit products in 16 bits, which saturate: weights and
activations near 127 give sums that are wrong by a quarter and more, without a word (2026.4). The
only way to know is to multiply.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from exporter.runtime.providers.quantized_product import quantized_product

FLOAT_PRODUCTS = {"LP_TRANSFORMS_MODE": "NO"}
"""Settings with which OpenVINO rounds as Q/DQ says and multiplies in fp32, which is exact here: the
products are whole numbers, and sums of a thousand of them stay below 2^24 but for the extreme."""

_ROWS, _CHANNELS, _COLUMNS = 5, 256, 64
_LARGEST = {7: 64, 8: 127}


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether a graph, its functions inlined, rounds to integers anywhere."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def exact_integers(core: Any, device: str, weight_bits: int = 8) -> bool:
    """Multiply integers of the largest size in a small graph, and compare with the true product.

    Args:
        core: an `openvino.Core`.
        device: OpenVINO's name of the device.
        weight_bits: of the weights: 8, or 7 where they are within -64..64, whose products are exact
            on more processors.
    """
    generator = np.random.default_rng(0)
    rows = generator.choice([-127, 127], (_ROWS, _CHANNELS))
    rows[0] = 127
    weight = np.full((_CHANNELS, _COLUMNS), _LARGEST[weight_bits])
    content = quantized_product(weight.astype(np.int8))
    compiled = core.compile_model(core.read_model(content), device, {})
    found = compiled({"x": rows.astype(np.float32)})[0]
    return bool(np.array_equal(found, (rows @ weight).astype(np.float32)))
