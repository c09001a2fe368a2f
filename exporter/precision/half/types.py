"""The half-precision types and their limits."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir

HalfName: TypeAlias = Literal["fp16", "bf16"]


class HalfType(NamedTuple):
    """A 16-bit float type: its name on the command line, in ONNX and in numpy."""

    name: HalfName
    onnx: ir.DataType
    numpy: np.dtype

    @property
    def _limits(self) -> np.finfo:
        return ml_dtypes.finfo(self.numpy)  # type: ignore[no-untyped-call]

    @property
    def largest(self) -> float:
        """Largest finite value."""
        return float(self._limits.max)

    @property
    def smallest_normal(self) -> float:
        """Smallest positive value with all bits of precision."""
        return float(self._limits.smallest_normal)

    @property
    def epsilon(self) -> float:
        """Largest relative error of rounding a value in the normal range."""
        return float(self._limits.eps) / 2


HALF_TYPES: dict[HalfName, HalfType] = {
    "fp16": HalfType("fp16", ir.DataType.FLOAT16, np.dtype(np.float16)),
    "bf16": HalfType("bf16", ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
