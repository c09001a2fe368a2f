"""Verdicts on decisions: equal, near ties that flip or not, flipped; and accuracy without ties."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from exporter.metrics.decisions import Decided, Decision, decide
from exporter.metrics.figures import Rows
from exporter.metrics.tally import Tally, merge, tally


def decided(reference: object, candidate: object, decision: Decision = Decision.ARGMAX) -> Decided:
    ref, cand = np.array(reference, np.float64), np.array(candidate, np.float64)
    found = decide(ref, cand, np.ones(ref.shape, np.bool_), decision)
    assert found is not None
    return found


def counted(
    reference: object, candidate: object, tie: float, labels: list[int] | None = None
) -> Tally:
    values = np.array(reference, np.float64)
    rows = Rows(values, None, np.arange(len(values)), np.full(len(values), -1))
    return tally(rows, decided(reference, candidate), "a batch", (), labels).settled(tie, 0.0)


def test_a_margin_is_the_references_own() -> None:
    found = decided([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5]], [[3.0, 1.0, 2.5], [0.0, 1.0, 0.5]])
    # To its second best where both choose alike, else to the candidate's choice.
    assert found.margin.tolist() == [0.5, 2.0]
    assert found.slip.tolist() == [0.0, -1.0 - 2.0]
    alone = decided([[7.0]], [[8.0]])
    assert (alone.margin.tolist(), alone.slip.tolist()) == ([inf], [0.0])
    signs = decided([[0.5, -2.0]], [[-0.5, -2.0]], Decision.SIGNS)
    assert signs.margin == pytest.approx([0.5 * 2**0.5, 2.0 * 2**0.5])


def test_padding_is_no_second_choice() -> None:
    valid = np.array([[True, False, False], [True, True, False]])
    values = np.array([[1.0, 9.0, 9.0], [1.0, 0.75, 9.0]])
    found = decide(values, values, valid, Decision.ARGMAX)
    assert found is not None
    assert found.margin.tolist() == [inf, 0.25]


def test_the_error_is_that_of_the_logits_that_decide() -> None:
    # The large logits err by 2e-3 of themselves, as in bf16, and the small ones hardly.
    generator = np.random.default_rng(1)
    reference = np.concatenate([generator.normal(9.0, 1e-2, (400, 2)), np.zeros((400, 99))], axis=1)
    error = 2e-3 * 9.0 * generator.normal(size=reference.shape)
    candidate = reference + np.where(reference > 1.0, error, 0.0)
    found = counted(reference, candidate, tie=0.0)
    assert found.rms_error == pytest.approx(2e-3 * 9.0, rel=0.1)
    assert found.equal < 400 and found.settled(4 * found.rms_error, 0.0).flipped == 0


def test_three_verdicts() -> None:
    reference = [[1.0, 0.0], [1.0, 0.9], [1.0, 0.9], [1.0, 0.5]]
    candidate = [[1.0, 0.0], [1.0, 0.9], [0.9, 1.0], [0.5, 1.0]]
    found = counted(reference, candidate, tie=0.2)
    assert (found.decisions, found.equal, found.near_ties, found.tied, found.flipped) == (
        4,
        2,
        2,
        1,
        1,
    )
    assert found.agreement == 0.75
    assert [flip.tied for flip in found.flips] == [False, True]  # the clearest first
    both = merge([found, found])
    assert both is not None
    both = both.settled(0.2, 0.0)
    assert (both.near_ties, both.tied, both.flipped) == (4, 2, 2)


@pytest.mark.parametrize(("tied", "beyond"), [(0, 0), (1, 0), (4, 0), (9, 3), (16, 8)])
def test_near_ties_that_flip_are_counted_beyond_chance(tied: int, beyond: int) -> None:
    reference = np.tile([1.0, 0.0], (32, 1))
    reference[:20] = [1.0, 0.99]
    candidate = reference.copy()
    candidate[:tied] = [0.99, 1.0]
    found = counted(reference, candidate, tie=0.02)
    assert (found.near_ties, found.tied, found.agreement) == (20, tied, 1.0)
    assert found.tied_flips == pytest.approx(beyond / 32)


def test_with_labels_there_are_no_ties() -> None:
    # 10 % of the right answers are lost, each within what int8's limit once called a tie: 0.2 of
    # the largest logit.
    reference = np.tile([1.0, 0.85], (200, 1))
    candidate = reference.copy()
    candidate[::10] = [0.85, 1.0]
    found = counted(reference, candidate, tie=0.2, labels=[0] * 200)
    assert found.accuracy_drop == pytest.approx(0.10)
    assert (found.flipped, found.tied) == (0, 20)
    assert found.tied_flips == pytest.approx((20 - 2 * 20**0.5) / 200)
    # What one loses and another wins is no drop.
    swapped = counted(reference, candidate, tie=0.0, labels=[0] * 190 + [1] * 10)
    assert swapped.accuracy_drop == pytest.approx((19 - 1) / 200)


def test_rounding_explains_the_flips_of_a_head_whose_choices_are_alike() -> None:
    generator = np.random.default_rng(1)
    reference = 1.0 + 1e-3 * generator.normal(size=(2000, 2))
    candidate = reference + 1e-3 * generator.normal(size=reference.shape)
    found = counted(reference, candidate, tie=4e-3)
    assert found.tied > 400
    assert found.tied_flips is not None and found.tied_flips > 0.15
    explained = found.settled(4e-3, 1e-3)
    # A quarter of these decisions turn: margin and error are of the same size.
    assert explained.expected_flips == pytest.approx(found.decisions / 4, rel=0.1)
    assert explained.tied_flips == 0.0
    # The same flips are no rounding of a tenth of the size.
    assert found.settled(4e-3, 1e-4).tied_flips > 0.1
