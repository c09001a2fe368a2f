"""Distances between the outputs of a reference and a candidate, at valid positions only.

Everything is accumulated in float64. `B` batch, `C` choices, `S` sequence; an output becomes rows:
`N` decisions or vectors of `K` values each, with a mask where a row has padding inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from exporter.deberta.tasks import Task

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]

_CHUNK_ELEMENTS = 1 << 20
_LEAST_SPREAD = 1e-2
_SMALL_ROW = 1e-2
"""A row below this share of the usual norm has no direction worth comparing."""


class Decision(str, Enum):
    """What a user reads from a row of logits."""

    NONE = "none"
    ARGMAX = "argmax"
    SIGNS = "signs"


@dataclass(frozen=True)
class Rows:
    """One output of one case, without padding.

    Attributes:
        values: float `(N, K)`.
        valid: bool `(N, K)` where a row has padding inside, else None.
        example: int64 `(N,)`, index in the batch that each row belongs to.
        position: int64 `(N,)`, its token, or -1 where a row belongs to a whole text.
    """

    values: Floats
    valid: Bools | None
    example: Ints
    position: Ints


def rows_of(task: Task, values: Floats, mask: Bools) -> Rows:
    """The rows of an output that count.

    Args:
        task: decides the layout, see `exporter.deberta.tasks`.
        values: output array as the model gives it.
        mask: bool `(B, S)`, or `(B, C, S)` for multiple choice: true at valid tokens.

    Returns:
        a row per valid token for `(B, S, K)`, else a row per example that has a valid token.
    """
    if task in (Task.BASE, Task.MASKED_LM, Task.TOKEN_CLASSIFICATION):
        example, position = np.nonzero(mask)
        return Rows(values[mask], None, example, position)
    inside: Bools = np.any(mask, axis=2) if task is Task.MULTIPLE_CHOICE else mask
    kept: Bools = np.any(inside, axis=1)
    valid = None if task is Task.SEQUENCE_CLASSIFICATION else inside[kept]
    example = np.flatnonzero(kept)
    return Rows(values[kept], valid, example, np.full(len(example), -1, np.int64))


@dataclass(frozen=True)
class Scale:
    """How large the reference's output is over all cases; errors are relative to it.

    Attributes:
        elements: values seen.
        max: largest magnitude.
        rms: root mean square.
        spread: root mean square after the mean of each column (of everything, where rows have
            padding inside) is taken off: the part that differs between inputs.
        row_norm: root mean square of the rows' Euclidean norms.
        non_finite: NaN and infinite values; they are left out of the rest.
    """

    elements: int
    max: float
    rms: float
    spread: float
    row_norm: float
    non_finite: int


def scale_of(outputs: Iterator[Rows]) -> Scale:
    """The scale of one output of the reference, from its rows in every case."""
    elements = non_finite = rows = 0
    largest = squares = 0.0
    columns: Doubles | None = None
    column_rows = 0
    total = 0.0
    for output in outputs:
        for chunk, _ in _chunks(output):
            finite = np.isfinite(chunk.values)
            counted = finite if chunk.valid is None else finite & chunk.valid
            bad = ~finite if chunk.valid is None else ~finite & chunk.valid
            non_finite += int(bad.sum())
            values = np.where(counted, chunk.values, 0.0).astype(np.float64)
            elements += int(counted.sum())
            rows += len(values)
            largest = max(largest, float(np.abs(values).max(initial=0.0)))
            squares += float((values**2).sum())
            total += float(values.sum())
            if chunk.valid is None:
                sums = values.sum(axis=0)
                columns = sums if columns is None else columns + sums
                column_rows += len(values)
    if not elements:
        return Scale(0, 0.0, 0.0, 0.0, 0.0, non_finite)
    if columns is not None:
        explained = float((columns**2).sum()) / column_rows
    else:
        explained = total**2 / elements
    return Scale(
        elements=elements,
        max=largest,
        rms=sqrt(squares / elements),
        spread=sqrt(max(0.0, squares - explained) / elements),
        row_norm=sqrt(squares / rows),
        non_finite=non_finite,
    )


@dataclass(frozen=True)
class Worst:
    """Where the largest error is: index in the batch, token (-1 for a whole text), both values."""

    example: int
    position: int
    reference: float
    candidate: float


@dataclass(frozen=True)
class Figures:
    """Distances of one output in one case, or in all cases together.

    Sums are kept so that cases add up exactly; use the properties for the figures.

    Attributes:
        elements: finite values compared.
        rows: rows compared.
        non_finite: NaN or infinite values of the candidate at valid positions.
        max_abs: largest absolute error.
        sum_abs: sum of absolute errors.
        sum_squares: sum of squared errors.
        min_cosine: smallest cosine between a row of the reference and of the candidate; None
            where rows have fewer than two values or are all too small.
        decisions: decisions compared.
        agreed: decisions that are the same.
        tied: decisions that differ where the reference has two choices closer than the permitted
            error; they count as agreement.
        sum_kl: sum over the decisions of KL(reference || candidate) in nats.
        max_kl: the largest of them.
        scale: the reference's scale, over all cases.
        worst: where the largest error is.
    """

    elements: int
    rows: int
    non_finite: int
    max_abs: float
    sum_abs: float
    sum_squares: float
    min_cosine: float | None
    decisions: int
    agreed: int
    tied: int
    sum_kl: float
    max_kl: float
    scale: Scale
    worst: Worst | None

    @property
    def mean_abs(self) -> float:
        """Mean absolute error."""
        return self.sum_abs / self.elements if self.elements else 0.0

    @property
    def rms_abs(self) -> float:
        """Root mean square of the error."""
        return sqrt(self.sum_squares / self.elements) if self.elements else 0.0

    @property
    def max_relative(self) -> float:
        """`max|error| / max|reference|`, the latter over all cases."""
        return _ratio(self.max_abs, self.scale.max)

    @property
    def rms_relative(self) -> float:
        """`rms(error) / rms(reference)`, the latter over all cases."""
        return _ratio(self.rms_abs, self.scale.rms)

    @property
    def spread_relative(self) -> float:
        """`rms(error) / rms(reference - its mean)`: the share of what tells inputs apart.

        A head of random weights gives nearly the same logits for every input, so that a fault is
        small beside them but large beside their differences. The denominator is at least 1 % of
        the root mean square, since the rounding of floats is relative to the values themselves.
        """
        return _ratio(self.rms_abs, max(self.scale.spread, _LEAST_SPREAD * self.scale.rms))

    @property
    def agreement(self) -> float | None:
        """Share of decisions that are the same or tied, 0 to 1; None without decisions."""
        return (self.agreed + self.tied) / self.decisions if self.decisions else None

    @property
    def mean_kl(self) -> float | None:
        """Mean KL divergence in nats; None without decisions."""
        return self.sum_kl / self.decisions if self.decisions else None


def measure(
    reference: Rows, candidate: Rows, scale: Scale, decision: Decision, tie: float
) -> Figures:
    """The distances between two outputs of the same case and shape.

    Args:
        reference: rows of the reference.
        candidate: rows of the candidate; `valid` and owners are taken from the reference.
        scale: scale of the reference over all cases.
        decision: what is read from a row.
        tie: permitted absolute error; two choices closer than twice that are tied.
    """
    result: Figures | None = None
    for chunk, where in _chunks(reference):
        part = _measure_chunk(chunk, candidate.values[where], scale, decision, tie)
        result = part if result is None else add(result, part)
    if result is None:
        return Figures(0, 0, 0, 0.0, 0.0, 0.0, None, 0, 0, 0, 0.0, 0.0, scale, None)
    return result


def add(first: Figures, second: Figures) -> Figures:
    """The figures of two parts of the same output together; `worst` is of the larger error."""
    cosines = [c for c in (first.min_cosine, second.min_cosine) if c is not None]
    return Figures(
        elements=first.elements + second.elements,
        rows=first.rows + second.rows,
        non_finite=first.non_finite + second.non_finite,
        max_abs=max(first.max_abs, second.max_abs),
        sum_abs=first.sum_abs + second.sum_abs,
        sum_squares=first.sum_squares + second.sum_squares,
        min_cosine=min(cosines) if cosines else None,
        decisions=first.decisions + second.decisions,
        agreed=first.agreed + second.agreed,
        tied=first.tied + second.tied,
        sum_kl=first.sum_kl + second.sum_kl,
        max_kl=max(first.max_kl, second.max_kl),
        scale=first.scale,
        worst=first.worst if first.max_abs >= second.max_abs else second.worst,
    )


def _ratio(error: float, scale: float) -> float:
    """`error / scale`; an error against a reference that is zero throughout is infinite."""
    if scale > 0:
        return error / scale
    return inf if error > 0 else 0.0


def _chunks(rows: Rows) -> Iterator[tuple[Rows, slice]]:
    """Pieces small enough that their float64 copies cost little memory, each with its place."""
    count, width = rows.values.shape
    step = max(1, _CHUNK_ELEMENTS // max(1, width))
    for start in range(0, count, step):
        where = slice(start, min(count, start + step))
        valid = None if rows.valid is None else rows.valid[where]
        yield (
            Rows(rows.values[where], valid, rows.example[where], rows.position[where]),
            where,
        )


def _measure_chunk(
    reference: Rows, candidate: Floats, scale: Scale, decision: Decision, tie: float
) -> Figures:
    ref = reference.values.astype(np.float64)
    cand = candidate.astype(np.float64)
    valid = np.ones(ref.shape, np.bool_) if reference.valid is None else reference.valid
    broken = ~np.isfinite(cand) & valid
    counted = valid & np.isfinite(ref) & ~broken
    error = np.abs(np.where(counted, cand, 0.0) - np.where(counted, ref, 0.0))
    worst = None
    if counted.any():
        row, column = np.unravel_index(int(error.argmax()), error.shape)
        place = (int(reference.example[row]), int(reference.position[row]))
        worst = Worst(*place, float(ref[row, column]), float(cand[row, column]))
    # A row with NaN has neither direction nor decision; the count of NaN fails the output anyway.
    whole = ~(valid & ~counted).any(axis=1)
    ref, cand, valid = ref[whole], cand[whole], valid[whole]
    decisions, agreed, tied, kl = _decide(ref, cand, valid, decision, tie)
    return Figures(
        elements=int(counted.sum()),
        rows=len(error),
        non_finite=int(broken.sum()),
        max_abs=float(error.max(initial=0.0)),
        sum_abs=float(error.sum()),
        sum_squares=float((error**2).sum()),
        min_cosine=_min_cosine(ref, cand, valid, scale.row_norm),
        decisions=decisions,
        agreed=agreed,
        tied=tied,
        sum_kl=float(kl.sum()),
        max_kl=float(kl.max(initial=0.0)),
        scale=scale,
        worst=worst,
    )


def _min_cosine(ref: Doubles, cand: Doubles, valid: Bools, usual: float) -> float | None:
    """Smallest cosine of the rows that are long enough to have a direction."""
    ref, cand = np.where(valid, ref, 0.0), np.where(valid, cand, 0.0)
    norm_ref = np.linalg.norm(ref, axis=1)
    norm_cand = np.linalg.norm(cand, axis=1)
    kept = (norm_ref > _SMALL_ROW * usual) & (valid.sum(axis=1) > 1)
    if not kept.any():
        return None
    dots = (ref * cand).sum(axis=1)[kept]
    norms = (norm_ref * norm_cand)[kept]
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).min())


def _decide(
    ref: Doubles, cand: Doubles, valid: Bools, decision: Decision, tie: float
) -> tuple[int, int, int, Doubles]:
    """Decisions, how many agree, how many differ but are tied, and the KL of each."""
    if decision is Decision.NONE or not len(ref):
        return 0, 0, 0, np.zeros(0)
    if decision is Decision.SIGNS:
        same = (ref > 0) == (cand > 0)
        tied = ~same & (np.abs(ref) <= tie)
        return ref.size, int(same.sum()), int(tied.sum()), _binary_kl(ref, cand).ravel()
    ref, cand = np.where(valid, ref, -np.inf), np.where(valid, cand, -np.inf)
    index = np.arange(len(ref))
    first, other = ref.argmax(axis=1), cand.argmax(axis=1)
    margin = ref[index, first] - ref[index, other]
    same = first == other
    tied = ~same & (margin <= 2 * tie)
    return len(ref), int(same.sum()), int(tied.sum()), _softmax_kl(ref, cand, valid)


def _softmax_kl(ref: Doubles, cand: Doubles, valid: Bools) -> Doubles:
    """KL(softmax(ref) || softmax(cand)) of each row, in nats; padding is -inf in both."""
    log_ref, log_cand = _log_softmax(ref), _log_softmax(cand)
    with np.errstate(invalid="ignore"):
        terms = np.where(valid, np.exp(log_ref) * (log_ref - log_cand), 0.0)
    kl: Doubles = np.maximum(terms.sum(axis=1), 0.0)  # rounding can leave -1e-17
    return kl


def _log_softmax(logits: Doubles) -> Doubles:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Doubles = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _binary_kl(ref: Doubles, cand: Doubles) -> Doubles:
    """KL between the two-way distributions sigmoid(ref) and sigmoid(cand), element by element."""
    on = np.exp(-np.logaddexp(0.0, -ref))
    terms = on * (np.logaddexp(0.0, -cand) - np.logaddexp(0.0, -ref))
    terms += (1.0 - on) * (np.logaddexp(0.0, cand) - np.logaddexp(0.0, ref))
    kl: Doubles = np.maximum(terms, 0.0)
    return kl
