"""Which values and matrices fp16 can hold: by measured ranges, and by what rounding loses.

fp16 ends at 65504 and loses precision below 2^-14: there its rounding error is up to 2^-25 however
small the value. bf16 has the exponents of fp32, so everything fits it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporter.precision.half.types import HalfType

Floats = NDArray[np.float32]

SCORE_ERROR = 2.0**-4
"""Largest error of a term of the attention's scores that rounding it may cause."""


class Range(Protocol):
    """Smallest and largest element of a value; see `calibration.ranges.ValueRange`."""

    @property
    def minimum(self) -> float: ...

    @property
    def maximum(self) -> float: ...


@dataclass(frozen=True)
class Kept:
    """Something that stays in fp32 because of its range.

    Attributes:
        name: a value of the graph or an initializer.
        module: path in the checkpoint of what computes or holds it.
        reason: what the half type would do to it.
        absmax: its largest magnitude, as measured or stored; None where it was not measured.
    """

    name: str
    module: str
    reason: str
    absmax: float | None


@dataclass(frozen=True)
class Matrix:
    """Figures of a stored matrix.

    Attributes:
        absmax: largest magnitude.
        largest_norm: largest Euclidean norm of the weights of one output.
        floor_loss: the same of what rounding takes from weights below the normal range.
    """

    absmax: float
    largest_norm: float
    floor_loss: float


class Fit:
    """Judges values by their ranges and matrices by their content.

    Args:
        half: the type to fit.
        ranges: measured ranges by name of value; None judges matrices alone.
        safety_factor: how far below the type's largest value a measured range must end.
    """

    def __init__(
        self, half: HalfType, ranges: Mapping[str, Range] | None, safety_factor: float
    ) -> None:
        self.half = half
        self.limit = half.largest / safety_factor
        self._ranges = ranges

    def absmax(self, value: ir.Value) -> float | None:
        """Largest magnitude measured of a value, if it was."""
        found = None if self._ranges is None else self._ranges.get(value.name or "")
        return None if found is None else max(abs(found.minimum), abs(found.maximum))

    def judge_value(self, value: ir.Value) -> Kept | None:
        """Why a value must stay in fp32, if it must."""
        return self._judge(value.name or "", module_of(value), self.limit)

    def judge_score(self, name: str, module: str) -> Kept | None:
        """Why a term of the attention's scores must stay in fp32, if it must.

        Softmax turns an absolute error of a score into a relative one of a probability.
        """
        return self._judge(name, module, SCORE_ERROR / self.half.epsilon)

    def _judge(self, name: str, module: str, limit: float) -> Kept | None:
        if self._ranges is None:
            return None
        found = self._ranges.get(name)
        if found is None:
            return Kept(name, module, "its range was not measured", None)
        absmax = max(abs(found.minimum), abs(found.maximum))
        if absmax <= limit:
            return None
        reason = f"reaches {absmax:.6g}; the limit in {self.half.name} is {limit:.6g}"
        return Kept(name, module, reason, absmax)

    def small_weights(self, matrix: ir.Value, figures: Matrix, source: ir.Value) -> Kept:
        """A matrix that stays because of `loses_weights`."""
        reason = f"{self.half.name} would round small weights, which inputs of "
        reason += f"{self.absmax(source):.6g} multiply"
        return Kept(matrix.name or "", module_of(matrix), reason, figures.absmax)

    def small_elements(self, value: ir.Value, matrix: ir.Value, figures: Matrix) -> Kept:
        """A value that stays because of `loses_inputs`."""
        reason = f"{self.half.name} would round small elements, which weights of "
        reason += f"{figures.absmax:.6g} in {matrix.name} multiply"
        return Kept(value.name or "", module_of(value), reason, self.absmax(value))

    def judge_stored(self, value: ir.Value, absmax: float | None = None) -> Kept | None:
        """Why an initializer must stay in fp32, if it must; it is read where `absmax` is None."""
        if absmax is None:
            content = _content(value)
            absmax = float(max(content.max(initial=0.0), -content.min(initial=0.0)))
        if absmax <= self.half.largest:
            return None
        reason = f"holds {absmax:.6g}; {self.half.name} ends at {self.half.largest:.6g}"
        return Kept(value.name or "", module_of(value), reason, absmax)

    def matrix(self, value: ir.Value, output_axis: int) -> Matrix:
        """Figures of a stored matrix, read once and let go of."""
        content = _content(value)
        weights = np.moveaxis(content, output_axis, -1).reshape(-1, content.shape[output_axis])
        small = np.where(np.abs(weights) < self.half.smallest_normal, weights, 0.0)
        loss = small - small.astype(self.half.numpy).astype(np.float32)
        with np.errstate(over="ignore"):  # an infinite norm is judged like any large one
            return Matrix(
                absmax=float(max(weights.max(initial=0.0), -weights.min(initial=0.0))),
                largest_norm=float(np.linalg.norm(weights, axis=0).max(initial=0.0)),
                floor_loss=float(np.linalg.norm(loss, axis=0).max(initial=0.0)),
            )

    def loses_weights(self, source: ir.Value, matrix: Matrix, product: ir.Value) -> bool:
        """Whether rounding small weights changes a product more than rounding the product does."""
        reach, size = self.absmax(source), self.absmax(product)
        if reach is None or size is None:
            return False
        return reach * matrix.floor_loss > self.half.epsilon * size

    def loses_inputs(self, matrix: Matrix, product: ir.Value) -> bool:
        """Whether rounding small inputs changes a product more than rounding the product does."""
        size = self.absmax(product)
        if size is None:
            return False
        return self.half.floor * matrix.largest_norm > self.half.epsilon * size


def module_of(value: ir.Value) -> str:
    """Path in the checkpoint of the tensors that a value is computed with, or is; "" for none."""
    queue, seen = deque([value]), {value}
    while queue:
        current = queue.popleft()
        if current.is_initializer():
            return (current.name or "").rpartition(".")[0]
        node = current.producer()
        sources = [] if node is None else [item for item in node.inputs if item is not None]
        # Its own tensors first: what the activations were computed with lies further up.
        for source in sorted(sources, key=lambda item: not item.is_initializer()):
            if source not in seen:
                seen.add(source)
                queue.append(source)
    return ""


def _content(value: ir.Value) -> Floats:
    if value.const_value is None:
        raise ValueError(f"initializer {value.name} has no value")
    content: Floats = value.const_value.numpy()
    return content
