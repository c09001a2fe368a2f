"""The 8-bit number formats, symmetric around zero, as numpy does their arithmetic.

int8 is -127..127: -128 is left out so that a weight and its negative round alike. fp8 is E4M3 in
the variant without infinities (ONNX `FLOAT8E4M3FN`), largest value 448; conversions saturate.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Stored = NDArray[Any]  # int8 or float8_e4m3fn


class NumberFormat(str, Enum):
    """An 8-bit format of weights and activations.

    `INT7` is int8 of which -64..64 are used, for weights alone: with it the sum of two products
    of 8 bits stays within 16, as x86 processors without VNNI need it.
    """

    INT8 = "int8"
    INT7 = "int7"
    FP8 = "fp8"

    @property
    def largest(self) -> float:
        """Largest stored value, to which the threshold of a tensor is scaled."""
        return _LARGEST[self]

    @property
    def is_integer(self) -> bool:
        """Whether its values are whole numbers, stored as int8."""
        return self is not NumberFormat.FP8

    @property
    def dtype(self) -> ir.DataType:
        return ir.DataType.INT8 if self.is_integer else ir.DataType.FLOAT8E4M3FN


# 255 * 64 * 2, an activation shifted to unsigned times a weight, twice, is below 2^15.
_LARGEST = {NumberFormat.INT8: 127.0, NumberFormat.INT7: 64.0, NumberFormat.FP8: 448.0}
_LEAST_SCALE = np.float32(2.0**-100)
"""Scale of a tensor that is zero throughout: any does, and its reciprocal is still finite."""


def scale_of(threshold: NDArray[np.floating] | float, number: NumberFormat) -> Floats:
    """`threshold / largest` in fp32, positive also where the threshold is zero."""
    scale = np.asarray(threshold, np.float32) / np.float32(number.largest)
    return np.asarray(np.maximum(scale, _LEAST_SCALE))


def quantize(values: Floats, scale: Floats, number: NumberFormat) -> Stored:
    """`values` `(..., N)` over `scale` `()` or `(N,)`, rounded to nearest even and saturated."""
    scaled = np.clip(values / scale, -number.largest, number.largest)
    if number.is_integer:
        scaled = np.rint(scaled)
    stored: Stored = scaled.astype(number.dtype.numpy())
    return stored


def round_trip(values: Floats, scale: Floats, number: NumberFormat) -> Floats:
    """What is left of `values` after quantization, in fp32."""
    scaled: Floats = np.clip(values / scale, -number.largest, number.largest)
    if number.is_integer:
        np.rint(scaled, out=scaled)
    else:
        scaled = scaled.astype(number.dtype.numpy()).astype(np.float32)
    scaled *= scale
    return scaled
