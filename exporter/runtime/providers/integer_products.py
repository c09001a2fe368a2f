"""Whether ONNX Runtime's int8 products are exact on this processor without an option of a session.

On x86 without VNNI its kernels add pairs of 16-bit products in 16 bits, and the sum saturates. The
figure is measured and not looked up: what decides is the kernel that this build of it takes here.
"""

from __future__ import annotations

import numpy as np

from exporter.runtime.providers.quantized_product import quantized_product

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
            quantized_product(np.full((CHANNELS, CHANNELS), 127, np.int8)),
            options,
            providers=["CPUExecutionProvider"],
        )
        (found,) = session.run(None, {"x": np.full((1, CHANNELS), 127, np.float32)})
    except Exception:  # a broken binary can raise anything; the software's own line says so
        return None
    return bool((np.asarray(found) == 127 * 127 * CHANNELS).all())
