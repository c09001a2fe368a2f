"""Which values and matrices fp16 can hold: by measured ranges, and by what rounding loses.

fp16 ends at 65504 and loses precision below 2^-14: there its rounding error is up to 2^-25 however
small the value. bf16 has the exponents of fp32, so everything fits it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from calibration.ranges import ValueRange
from exporter.graph.write import tensor_of
from exporter.precision.half.types import HalfType

SCORE_ERROR = 2.0**-4
"""Largest error of a term of the attention's scores that rounding it may cause."""


@dataclass(frozen=True)
class Kept:
    """A value of the graph or an initializer that stays in fp32 because of its range.

    Attributes:
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
    """A stored matrix with its largest magnitude, the largest Euclidean norm of the weights of one
    output, and the same of what rounding takes from weights below the normal range."""

    value: ir.Value
    absmax: float
    largest_norm: float
    floor_loss: float


@dataclass(frozen=True)
class Fit:
    """Judges values by their ranges and matrices by their content, whether a half type fits.

    Measured `ranges` have the values' names; None judges matrices alone. They must end
    `safety_factor` times below the type's largest value.
    """

    half: HalfType
    ranges: Mapping[str, ValueRange] | None
    safety_factor: float

    def absmax(self, value: ir.Value) -> float | None:
        """Largest magnitude measured of a value, if it was."""
        found = (self.ranges or {}).get(value.name or "")
        return None if found is None else found.absmax

    def judge_value(self, value: ir.Value) -> Kept | None:
        """Why a value must stay in fp32, if it must."""
        limit = self.half.largest / self.safety_factor
        return self._judge(value.name or "", module_of(value), limit)

    def judge_score(self, name: str, module: str) -> Kept | None:
        """Why a term of the attention's scores must stay in fp32, if it must.

        Softmax turns an absolute error of a score into a relative one of a probability.
        """
        return self._judge(name, module, SCORE_ERROR / self.half.epsilon)

    def _judge(self, name: str, module: str, limit: float) -> Kept | None:
        if self.ranges is None:
            return None
        found = self.ranges.get(name)
        if found is None:
            return Kept(name, module, "its range was not measured", None)
        if found.absmax <= limit:
            return None
        reason = f"reaches {found.absmax:.6g}; the limit in {self.half.name} is {limit:.6g}"
        return Kept(name, module, reason, found.absmax)

    def judge_stored(self, value: ir.Value, absmax: float | None = None) -> Kept | None:
        """Why an initializer must stay in fp32, if it must; it is read where `absmax` is None."""
        if absmax is None:
            absmax = _absmax(tensor_of(value).numpy())
        if absmax <= self.half.largest:
            return None
        reason = f"holds {absmax:.6g}; {self.half.name} ends at {self.half.largest:.6g}"
        return _kept(value, reason, absmax)

    def matrix(self, value: ir.Value, output_axis: int) -> Matrix:
        """Figures of a stored matrix, read once and let go of."""
        content = tensor_of(value).numpy()
        weights = np.moveaxis(content, output_axis, -1).reshape(-1, content.shape[output_axis])
        small = np.where(np.abs(weights) < self.half.smallest_normal, weights, 0.0)
        loss = small - small.astype(self.half.numpy).astype(np.float32)
        with np.errstate(over="ignore"):  # an infinite norm is judged like any large one
            norm, lost = (
                float(np.linalg.norm(part, axis=0).max(initial=0.0)) for part in (weights, loss)
            )
        return Matrix(value, _absmax(weights), norm, lost)

    def judge_weights(self, source: ir.Value, matrix: Matrix, product: ir.Value) -> Kept | None:
        """Why a matrix must stay, if rounding its small weights changes a product more than
        rounding the product does."""
        reach, size = self.absmax(source), self.absmax(product)
        if reach is None or size is None:
            return None
        if not reach * matrix.floor_loss > self.half.epsilon * size:  # nor where it is NaN
            return None
        reason = f"{self.half.name} would round small weights, which inputs of {reach:.6g} multiply"
        return _kept(matrix.value, reason, matrix.absmax)

    def judge_inputs(
        self, carriers: Iterable[ir.Value], matrix: Matrix, product: ir.Value
    ) -> Iterator[tuple[ir.Value, Kept]]:
        """What carries a product's input, and why it must stay, if rounding small inputs changes
        the product more than rounding the product does."""
        size = self.absmax(product)
        # Below the normal range the error of rounding is no longer relative.
        floor = self.half.smallest_normal * self.half.epsilon
        if size is not None and floor * matrix.largest_norm > self.half.epsilon * size:
            reason = f"{self.half.name} would round small elements, which weights of "
            reason += f"{matrix.absmax:.6g} in {matrix.value.name} multiply"
            for value in carriers:
                yield value, _kept(value, reason, self.absmax(value))


def walk_back(
    starts: Iterable[ir.Value], sources: Callable[[ir.Value], Iterable[ir.Value]]
) -> Iterator[ir.Value]:
    """`starts` and what they come from, nearest first, each once; `sources` gives one step."""
    queue = deque(starts)
    seen = set(queue)
    while queue:
        value = queue.popleft()
        yield value
        for source in sources(value):
            if source not in seen:
                seen.add(source)
                queue.append(source)


def module_of(value: ir.Value) -> str:
    """Path in the checkpoint of the tensors that a value is computed with, or is; "" for none."""

    def sources(current: ir.Value) -> list[ir.Value]:
        node = current.producer()
        found = [] if node is None else [item for item in node.inputs if item is not None]
        # Its own tensors first: what the activations were computed with lies further up.
        return sorted(found, key=lambda item: not item.is_initializer())

    tensors = (item for item in walk_back([value], sources) if item.is_initializer())
    tensor = next(tensors, None)
    return "" if tensor is None else (tensor.name or "").rpartition(".")[0]


def _absmax(content: np.ndarray) -> float:
    return float(max(content.max(initial=0.0), -content.min(initial=0.0)))


def _kept(value: ir.Value, reason: str, absmax: float | None) -> Kept:
    return Kept(value.name or "", module_of(value), reason, absmax)
