"""Decisions of a data set counted up: agreement, accuracy, calibration, and those that flipped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from math import erfc, fsum, sqrt

import numpy as np

from exporter.metrics.decisions import Bools, Decided, Doubles, Ints
from exporter.metrics.figures import Rows

BINS = 15
"""Bins of the calibration error, as in its source."""
KEPT_FLIPS = 50
KEPT_POINTS = 600
_SUMS = ["decisions", "slips", "reference_confidence", "candidate_confidence"]
_SUMS += ["reference_bins", "candidate_bins"]
LEAST_LABELLED = 100
"""Fewer labelled decisions say nothing of calibration: each of them moves it by a percent."""


@dataclass(frozen=True)
class Flip:
    """A decision that changed.

    Attributes:
        text: of the example; empty where the inputs are ids alone.
        case: name of its batch.
        example: index in the batch.
        token: index of the token, -1 where the decision is on a whole text.
        column: the label of an independent decision, -1 where a row is one.
        reference: the reference's choice, an index.
        candidate: the candidate's.
        label: the right one, where the data says.
        reference_score: probability that the reference gives to its choice.
        common_score: probability that the candidate gives to the reference's choice.
        candidate_score: probability that the candidate gives to its own choice.
        margin: by how much the reference prefers its choice to the candidate's.
        tied: it is a near tie.
    """

    text: str
    case: str
    example: int
    token: int
    column: int
    reference: int
    candidate: int
    label: int | None
    reference_score: float
    common_score: float
    candidate_score: float
    margin: float
    tied: bool = False


@dataclass(frozen=True, eq=False)
class Bins:
    """Labelled decisions of one model by confidence, in `BINS` bins of equal width.

    Attributes:
        count: int64 `(BINS,)`.
        correct: int64 `(BINS,)`.
        confidence: float64 `(BINS,)`, sum of the confidences.
    """

    count: Ints
    correct: Ints
    confidence: Doubles

    def __add__(self, other: Bins) -> Bins:
        return Bins(
            self.count + other.count,
            self.correct + other.correct,
            self.confidence + other.confidence,
        )

    @property
    def error(self) -> float | None:
        """Expected calibration error, 0 to 1; None without labelled decisions.

        C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3: the mean
        over the decisions of |accuracy - confidence| of their bin.
        """
        total = int(self.count.sum())
        return float(np.abs(self.correct - self.confidence).sum()) / total if total else None

    @property
    def accuracy(self) -> float | None:
        """Share of right decisions; None without labels."""
        total = int(self.count.sum())
        return int(self.correct.sum()) / total if total else None


@dataclass(frozen=True, eq=False)
class Tally:
    """Decisions of one output, in one batch or in many.

    Attributes:
        decisions: number of them.
        slips: sum of the squares of their slips, see `Decided`.
        reference_confidence: sum of the probabilities of the reference's choices.
        candidate_confidence: the same of the candidate.
        reference_bins: labelled decisions of the reference.
        candidate_bins: the same of the candidate.
        margins: of the reference, see `Decided`.
        same: bool, where both decide alike.
        flips: those that changed, the clearest `KEPT_FLIPS`.
        points: `(P, 2)`, for some decisions the probability of the reference's choice in both.
        tie: margin up to which a decision is a near tie, see `TIE_ERRORS`; 0 until `settled`.
        rounding: rms error of the logits that rounding explains.
    """

    decisions: int
    slips: float
    reference_confidence: float
    candidate_confidence: float
    reference_bins: Bins
    candidate_bins: Bins
    margins: Doubles
    same: Bools
    flips: tuple[Flip, ...]
    points: Doubles
    tie: float = 0.0
    rounding: float = 0.0

    def settled(self, tie: float, rounding: float) -> Tally:
        """The same with what a near tie is, which follows from all batches together."""
        flips = tuple(replace(flip, tied=flip.margin <= tie) for flip in self.flips)
        return replace(self, tie=tie, rounding=rounding, flips=flips)

    @property
    def rms_error(self) -> float:
        """Of the logits that decide, which are the large ones and err by more than all together."""
        return sqrt(self.slips / self.decisions / 2.0) if self.decisions else 0.0

    @property
    def equal(self) -> int:
        """Decisions in which both models are alike."""
        return int(self.same.sum())

    @property
    def near_ties(self) -> int:
        """Decisions that rounding may turn, whether or not it did."""
        return int((self.margins <= self.tie).sum())

    @property
    def tied(self) -> int:
        """Near ties that flipped."""
        return int((~self.same & (self.margins <= self.tie)).sum())

    @property
    def flipped(self) -> int:
        """Decisions that changed and are no near ties."""
        return self.decisions - self.equal - self.tied

    @property
    def agreement(self) -> float | None:
        """Share of decisions that did not flip, near ties left out; None without decisions."""
        return (self.decisions - self.flipped) / self.decisions if self.decisions else None

    @property
    def tied_flips(self) -> float | None:
        """Near ties that flipped beyond those that rounding explains, as a share of all decisions.

        Of k that flipped, two deviations of chance, 2 sqrt(k), do not count: up to four may flip
        in a set of any size. None without decisions.
        """
        beyond = max(0.0, self.tied - 2.0 * sqrt(self.tied) - self.expected_flips)
        return beyond / self.decisions if self.decisions else None

    @property
    def expected_flips(self) -> float:
        """Near ties that rounding turns: the difference of two logits errs by sqrt(2) of each."""
        if not self.rounding:
            return 0.0
        near = self.margins[self.margins <= self.tie]
        return fsum(erfc(margin / (2.0 * self.rounding)) / 2.0 for margin in near)

    @property
    def labelled(self) -> int:
        """Decisions with a label."""
        return int(self.reference_bins.count.sum())

    @property
    def confidence_shift(self) -> float | None:
        """Mean confidence of the candidate less that of the reference; None without decisions."""
        if not self.decisions:
            return None
        return (self.candidate_confidence - self.reference_confidence) / self.decisions

    @property
    def accuracy_drop(self) -> float | None:
        """Accuracy that the candidate loses; None without labels. There are no ties: an answer
        is right or wrong."""
        right = self.reference_bins.correct.sum() - self.candidate_bins.correct.sum()
        return int(right) / self.labelled if self.labelled else None

    @property
    def ece_shift(self) -> float | None:
        """Calibration error of the candidate less the reference's; None with too few labels."""
        before, after = self.reference_bins.error, self.candidate_bins.error
        if self.labelled < LEAST_LABELLED or before is None or after is None:
            return None
        return after - before


def tally(
    rows: Rows, decided: Decided, case: str, texts: Sequence[str], labels: Sequence[int] | None
) -> Tally:
    """The decisions of one piece of one batch.

    Args:
        rows: what they were read from.
        decided: the decisions.
        case: name of the batch.
        texts: of its examples; may be empty.
        labels: class of each of its examples, where the data says.
    """
    example = rows.example[decided.row]
    token = rows.position[decided.row]
    wanted = None if labels is None else np.asarray(labels, np.int64)[example]
    same = decided.same

    def flip(index: int) -> Flip:
        place = int(example[index])
        return Flip(
            text=texts[place] if place < len(texts) else "",
            case=case,
            example=place,
            token=int(token[index]),
            column=int(decided.column[index]),
            reference=int(decided.reference[index]),
            candidate=int(decided.candidate[index]),
            label=None if wanted is None else int(wanted[index]),
            reference_score=float(decided.reference_score[index]),
            common_score=float(decided.common_score[index]),
            candidate_score=float(decided.candidate_score[index]),
            margin=float(decided.margin[index]),
        )

    changed = np.flatnonzero(~same)
    order = np.argsort(-decided.margin[changed], kind="stable")
    points = np.stack([decided.reference_score, decided.common_score], axis=1)
    return Tally(
        decisions=len(same),
        slips=float(np.vdot(decided.slip, decided.slip)),
        reference_confidence=float(decided.reference_score.sum()),
        candidate_confidence=float(decided.candidate_score.sum()),
        reference_bins=_bins(decided.reference, decided.reference_score, wanted),
        candidate_bins=_bins(decided.candidate, decided.candidate_score, wanted),
        margins=decided.margin,
        same=same,
        flips=tuple(flip(int(index)) for index in changed[order][:KEPT_FLIPS]),
        points=_thinned(points, ~same),
    )


def _bins(chosen: Ints, score: Doubles, wanted: Ints | None) -> Bins:
    if wanted is None:
        return Bins(np.zeros(BINS, np.int64), np.zeros(BINS, np.int64), np.zeros(BINS))
    place = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    return Bins(
        count=np.bincount(place, minlength=BINS),
        correct=np.bincount(place[chosen == wanted], minlength=BINS),
        confidence=np.bincount(place, weights=score, minlength=BINS).astype(np.float64),
    )


def _thinned(points: Doubles, always: Bools) -> Doubles:
    """At most `KEPT_POINTS` points, evenly chosen, those of `always` first."""
    first, rest = points[always], points[~always]
    room = max(0, KEPT_POINTS - len(first))
    if len(rest) > room:
        rest = rest[np.linspace(0, len(rest) - 1, room).astype(np.int64)]
    return np.concatenate([first[:KEPT_POINTS], rest])


def merge(parts: Iterable[Tally]) -> Tally | None:
    """The decisions of several batches together; None of none."""
    found = list(parts)
    return reduce(_add, found) if found else None


def _add(first: Tally, second: Tally) -> Tally:
    flips = sorted((*first.flips, *second.flips), key=lambda flip: -flip.margin)
    points = np.concatenate([first.points, second.points])
    return Tally(
        **{name: getattr(first, name) + getattr(second, name) for name in _SUMS},
        margins=np.concatenate([first.margins, second.margins]),
        same=np.concatenate([first.same, second.same]),
        flips=tuple(flips[:KEPT_FLIPS]),
        points=_thinned(points, np.abs(points[:, 0] - points[:, 1]) > 0.1),
    )
