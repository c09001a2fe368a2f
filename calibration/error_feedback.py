"""Rounding of a table's rows that does least harm to what reads them first.

Words go through LayerNorm into the first layer's query, key and value projection and its residual
sum. An error `e` of a row costs there `e M e^T`, with `M` of `reader_metric`. Values are rounded
one after the other, and what each rounding adds is made good by those that follow, as GPTQ does
for weights: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.formats import Floats, NumberFormat

Doubles = NDArray[np.float64]

RESIDUAL = 0.3
"""Weight of the residual sum, relative to the projection: of 0.01 to 3, the least KL on the
checkpoints of `benchmarks.fidelity` lay between 0.1 and 1."""
_DAMPING = 0.01
"""Least cost of an error, relative to the mean: LayerNorm takes what all values share away."""
_COLUMNS = 32
"""Columns that are rounded before the rest is told of them, which is then one product."""


def reader_metric(projection: Floats, gains: Floats, before: Floats | None = None) -> Doubles:
    """Symmetric `(E, E)`: `e M e^T` is what an error `e` of a row costs where rows are first read.

    Args:
        projection: `(K, N)` of the first layer's query, key and value, as it is multiplied.
        gains: `(K,)` of the LayerNorm of the embeddings.
        before: `(E, K)`, the projection of embeddings of another width; None where `E = K`.
    """
    weight = projection.astype(np.float64)
    # What a query is multiplied by its key may be divided by, and a value likewise: each counts 1.
    weight /= np.maximum(np.sqrt(np.square(weight).sum(axis=0)), np.finfo(np.float32).tiny)
    width, outputs = weight.shape
    product = weight @ weight.T
    product += RESIDUAL * outputs / width * np.eye(width)
    product *= np.outer(gains, gains).astype(np.float64)
    # LayerNorm takes the mean away.
    product -= product.mean(axis=0)
    product -= product.mean(axis=1, keepdims=True)
    if before is not None:
        wide = before.astype(np.float64)
        product = wide @ product @ wide.T
    metric: Doubles = (product + product.T) / 2
    # Where all gains are zero any metric does.
    metric += (_DAMPING * np.trace(metric) / len(metric) or 1.0) * np.eye(len(metric))
    return metric


@dataclass(frozen=True, eq=False)
class ErrorFeedback:
    """How the roundings of a row follow from each other: from a metric `(E, E)`, in fp64.

    A row's result depends on no other row.
    """

    metric: Doubles
    order: NDArray[np.int64] = field(init=False)
    """Columns as they are rounded: the costliest first, while there are others to make it good."""
    factor: Doubles = field(init=False)
    """Upper `(E, E)` in that order: `factor^T factor` is the inverse of the metric."""

    def __post_init__(self) -> None:
        order = np.argsort(-np.diag(self.metric), kind="stable")
        inverse = np.linalg.inv(self.metric[np.ix_(order, order)])
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "factor", np.linalg.cholesky(inverse).T)

    def cost(self, errors: Floats) -> Doubles:
        """`(n,)`: what errors `(n, E)` of rows cost."""
        cost: Doubles = ((errors @ self.metric) * errors).sum(axis=1)
        return cost

    def rounded(self, steps: Floats) -> NDArray[np.int8]:
        """Rows `(n, E)` in steps of their scales, rounded to -127..127."""
        largest = NumberFormat.INT8.largest
        # Columns as rows, so that each is contiguous.
        rest = np.ascontiguousarray(steps.T[self.order], np.float64)
        stored = np.empty(rest.shape, np.int8)
        for start in range(0, len(rest), _COLUMNS):
            end = min(start + _COLUMNS, len(rest))
            errors = np.empty((end - start, rest.shape[1]))
            for column in range(start, end):
                whole = np.clip(np.rint(rest[column]), -largest, largest)
                stored[column] = whole
                error = (rest[column] - whole) / self.factor[column, column]
                rest[column + 1 : end] -= np.outer(self.factor[column, column + 1 : end], error)
                errors[column - start] = error
            rest[end:] -= self.factor[start:end, end:].T @ errors
        found = np.empty(steps.shape, np.int8)
        found[:, self.order] = stored.T
        return found
