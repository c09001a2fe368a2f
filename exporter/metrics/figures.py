"""Distances between the outputs of a reference and a candidate, at valid positions only.

Everything is accumulated in float64. `B` batch, `C` choices, `S` sequence; an output becomes rows:
`N` decisions or vectors of `K` values each, with a mask where a row has padding inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from exporter.metrics.decisions import Bools, Decided, Decision, Doubles, Ints, decide
from exporter.model.task import Task

Floats = NDArray[np.floating]
Observer = Callable[["Rows", Decided], None]
"""Told the decisions of each piece of an output, with the rows that they were read from."""

_CHUNK_ELEMENTS = 1 << 17
"""Float64 copies of a piece stay in the processor's second cache."""
_SUMS = "elements rows non_finite sum_abs sum_squares decisions agreed sum_kl moments".split()
_LEAST_SPREAD = 1e-2
_COLUMNS = 256
"""Columns whose correlation is measured; a vocabulary has thousands, which say the same."""
_LEAST_ROWS = 10
_CONSTANT = 1e-6
"""What differs less than this share of the values is the rounding of fp32."""
_SMALL_ROW = 0.2
"""A row below this share of the usual norm has no direction worth comparing: an error that
`rms_relative` may have turns it by more than the limits on the cosine permit."""


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
        task: decides the layout, see `exporter.model.task`.
        values: output array as the model gives it.
        mask: bool `(B, S)`, or `(B, C, S)` for multiple choice: true at valid tokens; of the shape
            of `values` for GLiNER.

    Returns:
        a row per valid logit for GLiNER, whose position is a word; else a row per valid token for
        `(B, S, K)`, or a row per example that has a valid token.
    """
    if task in (Task.BASE, Task.MASKED_LM, Task.TOKEN_CLASSIFICATION):
        example, position = np.nonzero(mask)
        return Rows(values[mask], None, example, position)
    if task is Task.GLINER:
        example, position = np.nonzero(mask)[:2]
        return Rows(values[mask][:, None], None, example, position)
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


class ScaleSum:
    """Sums from which the scale of an output follows, case by case."""

    def __init__(self) -> None:
        self._elements = self._non_finite = self._rows = 0
        self._largest = self._squares = self._total = 0.0
        self._columns: Doubles | None = None
        self._column_rows = 0

    def add(self, output: Rows) -> None:
        """Count the rows of one case."""
        for chunk, _ in _chunks(output):
            values = chunk.values.astype(np.float64)
            counted = _counted(values, chunk.valid)
            if counted is None:
                self._elements += values.size
            else:
                self._non_finite += _bad(values, chunk.valid)
                values = np.where(counted, values, 0.0)
                self._elements += int(counted.sum())
            self._rows += len(values)
            self._largest = max(self._largest, _largest(values))
            self._squares += float(np.vdot(values, values))
            sums = values.sum(axis=0)
            self._total += float(sums.sum())
            if chunk.valid is None:
                self._columns = sums if self._columns is None else self._columns + sums
                self._column_rows += len(values)

    def scale(self) -> Scale:
        """The scale of what was counted."""
        if not self._elements:
            return Scale(0, 0.0, 0.0, 0.0, 0.0, self._non_finite)
        if self._columns is not None:
            explained = float((self._columns**2).sum()) / self._column_rows
        else:
            explained = self._total**2 / self._elements
        return Scale(
            elements=self._elements,
            max=self._largest,
            rms=sqrt(self._squares / self._elements),
            spread=sqrt(max(0.0, self._squares - explained) / self._elements),
            row_norm=sqrt(self._squares / self._rows),
            non_finite=self._non_finite,
        )


def scale_of(outputs: Iterable[Rows]) -> Scale:
    """The scale of one output of the reference, from its rows in every case."""
    total = ScaleSum()
    for output in outputs:
        total.add(output)
    return total.scale()


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums from which the correlation of two outputs follows, over at most `_COLUMNS` columns.

    Attributes:
        counts: `(K,)`, values seen of each column.
        sums: `(2, K)`, of the reference and of the candidate.
        products: `(3, K)`, of their squares and of their products.
    """

    counts: Doubles = field(default_factory=lambda: np.zeros(0))
    sums: Doubles = field(default_factory=lambda: np.zeros((2, 0)))
    products: Doubles = field(default_factory=lambda: np.zeros((3, 0)))

    def __add__(self, other: Moments) -> Moments:
        """Both together; rows with padding inside may be longer in one of them."""
        width = max(len(self.counts), len(other.counts))
        ours, others = (
            [np.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, width - a.shape[-1])]) for a in arrays]
            for arrays in (
                (self.counts, self.sums, self.products),
                (other.counts, other.sums, other.products),
            )
        )
        return Moments(*(one + two for one, two in zip(ours, others, strict=True)))

    @property
    def correlation(self) -> float | None:
        """Correlation of reference and candidate after the mean of each column is taken off.

        0 of a candidate that gives every input the same. None with fewer than `_LEAST_ROWS` rows,
        or where the reference itself gives every input the same up to the rounding of fp32.
        """
        if self.counts.max(initial=0) < _LEAST_ROWS:
            return None
        first, second = self.sums
        means = np.array([first * first, second * second, first * second])
        means /= np.maximum(self.counts, 1.0)
        ref, cand, both = (self.products - means).sum(axis=1)
        squares = self.products.sum(axis=1)
        if ref <= _CONSTANT**2 * squares[0]:
            return None
        return 0.0 if cand <= _CONSTANT**2 * squares[1] else float(both / sqrt(ref * cand))


def moments_of(reference: Rows, candidate: Floats) -> Moments:
    """The moments of two outputs of the same case: of evenly chosen columns, or the first ones
    where a row has padding inside and a column is a position."""
    width = reference.values.shape[1]
    step = max(1, width // _COLUMNS) if reference.valid is None else 1
    where = (slice(None), slice(0, step * _COLUMNS, step))
    ref, cand = (a[where].astype(np.float64) for a in (reference.values, candidate))
    counted = np.isfinite(ref) & np.isfinite(cand)
    if reference.valid is not None:
        counted &= reference.valid[where]
    ref, cand = np.where(counted, ref, 0.0), np.where(counted, cand, 0.0)
    return Moments(
        counted.sum(axis=0).astype(np.float64),
        np.array([ref.sum(axis=0), cand.sum(axis=0)]),
        np.array([(ref * ref).sum(axis=0), (cand * cand).sum(axis=0), (ref * cand).sum(axis=0)]),
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
        scale: the reference's scale, over all cases.
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
        sum_kl: sum over the decisions of KL(reference || candidate) in nats.
        max_kl: the largest of them.
        moments: of an output whose correlation is wanted.
        worst: where the largest error is.
    """

    scale: Scale
    elements: int = 0
    rows: int = 0
    non_finite: int = 0
    max_abs: float = 0.0
    sum_abs: float = 0.0
    sum_squares: float = 0.0
    min_cosine: float | None = None
    decisions: int = 0
    agreed: int = 0
    sum_kl: float = 0.0
    max_kl: float = 0.0
    moments: Moments = field(default_factory=Moments)
    worst: Worst | None = None

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
    def correlation(self) -> float | None:
        """Of reference and candidate, see `Moments`; None where it was not asked for."""
        return self.moments.correlation

    @property
    def mean_kl(self) -> float | None:
        """Mean KL divergence in nats; None without decisions."""
        return self.sum_kl / self.decisions if self.decisions else None


def measure(
    reference: Rows,
    candidate: Rows,
    scale: Scale,
    decision: Decision,
    observe: Observer | None = None,
) -> Figures:
    """The distances between two outputs of the same case and shape.

    Args:
        reference: rows of the reference.
        candidate: rows of the candidate; `valid` and owners are taken from the reference.
        scale: scale of the reference over all cases.
        decision: what is read from a row.
        observe: told the decisions.
    """
    result: Figures | None = None
    for chunk, where in _chunks(reference):
        part = _measure_chunk(chunk, candidate.values[where], scale, decision, observe)
        result = part if result is None else add(result, part)
    return result or Figures(scale)


def add(first: Figures, second: Figures) -> Figures:
    """The figures of two parts of the same output together; `worst` is of the larger error."""
    cosines = [c for c in (first.min_cosine, second.min_cosine) if c is not None]
    return replace(
        first if first.max_abs >= second.max_abs else second,
        max_kl=max(first.max_kl, second.max_kl),
        min_cosine=min(cosines, default=None),
        **{name: getattr(first, name) + getattr(second, name) for name in _SUMS},
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


def _counted(values: Doubles, valid: Bools | None) -> Bools | None:
    """Where values are valid and finite; None for everywhere, which is found without a mask."""
    # A sum is finite only where every value is: cheaper than to look at each.
    with np.errstate(invalid="ignore", over="ignore"):
        if valid is None and np.isfinite(values.sum()):
            return None
    finite: Bools = np.isfinite(values)
    return finite if valid is None else finite & valid


def _bad(values: Doubles, valid: Bools | None) -> int:
    """Number of valid values that are not finite."""
    bad = ~np.isfinite(values)
    return int(bad.sum() if valid is None else (bad & valid).sum())


def _largest(values: Doubles) -> float:
    """Largest magnitude; 0 of nothing."""
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))


def _measure_chunk(
    reference: Rows,
    candidate: Floats,
    scale: Scale,
    decision: Decision,
    observe: Observer | None,
) -> Figures:
    ref = reference.values.astype(np.float64)
    cand = candidate.astype(np.float64)
    both = _counted(cand, reference.valid), _counted(ref, reference.valid)
    masks = [mask for mask in both if mask is not None]
    counted = np.logical_and.reduce(masks) if masks else None
    broken = 0 if both[0] is None else _bad(cand, reference.valid)
    with np.errstate(invalid="ignore"):
        error = cand - ref
    if counted is not None:
        error[~counted] = 0.0
    worst = None
    largest = _largest(error)
    if error.size and (counted is None or counted.any()):
        flat = int(error.argmax() if error.max() >= largest else error.argmin())
        if counted is not None and not counted.flat[flat]:
            flat = int(counted.argmax())  # no error at all: any value that counts
        row, column = np.unravel_index(flat, error.shape)
        place = (int(reference.example[row]), int(reference.position[row]))
        worst = Worst(*place, float(ref[row, column]), float(cand[row, column]))
    rows = reference
    valid = np.ones(ref.shape, np.bool_) if reference.valid is None else reference.valid
    if counted is not None:
        # A row with NaN has neither direction nor decision; its count fails the output anyway.
        whole = ~(valid & ~counted).any(axis=1)
        ref, cand, valid = ref[whole], cand[whole], valid[whole]
        rows = Rows(ref, valid, reference.example[whole], reference.position[whole])
    figures = Figures(
        scale,
        elements=error.size if counted is None else int(counted.sum()),
        rows=len(error),
        non_finite=broken,
        max_abs=largest,
        sum_abs=float(np.abs(error).sum()),
        sum_squares=float(np.vdot(error, error)),
        min_cosine=_min_cosine(ref, cand, valid, scale.row_norm),
        worst=worst,
    )
    decided = decide(ref, cand, valid, decision)
    if decided is None:
        return figures
    if observe is not None:
        observe(rows, decided)
    return replace(
        figures,
        decisions=len(decided.kl),
        agreed=int(decided.same.sum()),
        sum_kl=float(decided.kl.sum()),
        max_kl=float(decided.kl.max(initial=0.0)),
    )


def _min_cosine(ref: Doubles, cand: Doubles, valid: Bools, usual: float) -> float | None:
    """Smallest cosine of the rows that are long enough to have a direction."""
    if not valid.all():
        ref, cand = np.where(valid, ref, 0.0), np.where(valid, cand, 0.0)
    norm_ref = np.sqrt(np.einsum("ij,ij->i", ref, ref))
    norm_cand = np.sqrt(np.einsum("ij,ij->i", cand, cand))
    kept = (norm_ref > _SMALL_ROW * usual) & (valid.sum(axis=1) > 1)
    if not kept.any():
        return None
    dots = np.einsum("ij,ij->i", ref, cand)[kept]
    norms = (norm_ref * norm_cand)[kept]
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).min())
