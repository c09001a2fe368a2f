"""The half-precision types and their limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir

HalfName: TypeAlias = Literal["fp16", "bf16"]


@dataclass(frozen=True)
class HalfType:
    """A 16-bit float type.

    Attributes:
        name: as on the command line.
        onnx: its ONNX type.
        numpy: its numpy type.
        bits: of the significand, the implied one included.
        largest_exponent: of the largest finite value.
    """

    name: HalfName
    onnx: ir.DataType
    numpy: np.dtype
    bits: int
    largest_exponent: int

    @property
    def largest(self) -> float:
        """Largest finite value."""
        return (2.0 - 2.0 ** (1 - self.bits)) * 2.0**self.largest_exponent

    @property
    def smallest_normal(self) -> float:
        """Smallest positive value with all bits of precision."""
        return 2.0 ** (1 - self.largest_exponent)

    @property
    def epsilon(self) -> float:
        """Largest relative error of rounding a value in the normal range."""
        return 2.0**-self.bits

    @property
    def floor(self) -> float:
        """Largest absolute error of rounding a value below the normal range."""
        return self.smallest_normal * self.epsilon


HALF_TYPES: dict[HalfName, HalfType] = {
    "fp16": HalfType("fp16", ir.DataType.FLOAT16, np.dtype(np.float16), 11, 15),
    "bf16": HalfType("bf16", ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16), 8, 127),
}
