"""The figures against plain loops over Python floats."""

from __future__ import annotations

from math import exp, inf, log, nan, sqrt

import numpy as np
import pytest

from exporter.metrics.decisions import Decision
from exporter.metrics.figures import (
    Moments,
    Rows,
    Scale,
    add,
    measure,
    moments_of,
    rows_of,
    scale_of,
)
from exporter.model.task import Task


def rows(values: object, valid: object = None) -> Rows:
    array = np.asarray(values, np.float32)
    count = len(array)
    mask = None if valid is None else np.asarray(valid, np.bool_)
    return Rows(array, mask, np.arange(count), np.full(count, -1))


def random_rows(seed: int, count: int, width: int, padded: bool) -> tuple[Rows, Rows]:
    generator = np.random.default_rng(seed)
    reference = generator.normal(size=(count, width)).astype(np.float32)
    candidate = reference + generator.normal(size=(count, width)).astype(np.float32) * 0.3
    valid = None
    if padded:
        valid = generator.random((count, width)) < 0.7
        valid[:, 0] = True
    return rows(reference, valid), rows(candidate, valid)


def softmax(values: list[float]) -> list[float]:
    top = max(values)
    terms = [exp(value - top) for value in values]
    return [term / sum(terms) for term in terms]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (7, 5), (63, 77)])
def test_figures_match_loops(count: int, width: int, padded: bool) -> None:
    reference, candidate = random_rows(count * width, count, width, padded)
    scale = scale_of(iter([reference]))
    figures = measure(reference, candidate, scale, Decision.ARGMAX)
    errors, kl, agreed, rows, squares = [], [], 0, [], []
    for i in range(count):
        kept = [j for j in range(width) if reference.valid is None or reference.valid[i, j]]
        ref = [float(reference.values[i, j]) for j in kept]
        cand = [float(candidate.values[i, j]) for j in kept]
        squares += [r * r for r in ref]
        errors += [abs(r - c) for r, c in zip(ref, cand, strict=True)]
        p, q = softmax(ref), softmax(cand)
        kl.append(sum(a * log(a / b) for a, b in zip(p, q, strict=True)))
        agreed += ref.index(max(ref)) == cand.index(max(cand))
        if len(kept) > 1:
            dot = sum(r * c for r, c in zip(ref, cand, strict=True))
            lengths = sqrt(sum(r * r for r in ref)), sqrt(sum(c * c for c in cand))
            rows.append((lengths[0], dot / (lengths[0] * lengths[1])))
    assert figures.elements == len(errors)
    assert figures.max_abs == pytest.approx(max(errors), rel=1e-12)
    assert figures.mean_abs == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    rms = sqrt(sum(e * e for e in errors) / len(errors))
    assert figures.rms_abs == pytest.approx(rms, rel=1e-12)
    assert figures.rms_relative == pytest.approx(rms / sqrt(sum(squares) / len(squares)), rel=1e-12)
    assert figures.max_relative == pytest.approx(max(errors) / sqrt(max(squares)), rel=1e-12)
    assert figures.decisions == count
    assert figures.agreed == agreed
    assert figures.mean_kl == pytest.approx(sum(kl) / len(kl), rel=1e-9, abs=1e-15)
    assert figures.max_kl == pytest.approx(max(kl), rel=1e-9, abs=1e-15)
    usual = sqrt(sum(squares) / count)
    cosines = [cosine for length, cosine in rows if length > 0.2 * usual]
    if cosines:
        assert figures.min_cosine == pytest.approx(min(cosines), rel=1e-12)
    else:
        assert figures.min_cosine is None


def test_spread_is_what_differs_between_rows() -> None:
    scale = scale_of(iter([rows([[10.0, -5.0], [10.5, -5.0], [9.5, -5.0]])]))
    assert scale.spread == pytest.approx(sqrt(0.5 / 6))
    assert scale.max == 10.5
    # Rows with padding inside have no columns: the mean of all valid values is taken off.
    padded = rows([[1.0, 3.0, 99.0], [2.0, 99.0, 99.0]], [[1, 1, 0], [1, 0, 0]])
    assert scale_of(iter([padded])).spread == pytest.approx(sqrt(2 / 3))
    assert scale_of(iter([padded])).max == 3.0


def test_scale_over_cases_equals_scale_of_all_rows() -> None:
    whole, _ = random_rows(5, 41, 7, padded=False)
    parts = [rows(whole.values[:13]), rows(whole.values[13:14]), rows(whole.values[14:])]
    together, apart = scale_of(iter([whole])), scale_of(iter(parts))
    assert apart.elements == together.elements == 41 * 7
    for name in ("max", "rms", "spread", "row_norm"):
        assert getattr(apart, name) == pytest.approx(getattr(together, name), rel=1e-12)


def test_large_outputs_are_measured_in_pieces_like_small_ones() -> None:
    reference, candidate = random_rows(9, 700, 3001, padded=False)
    scale = scale_of(iter([reference]))
    figures = measure(reference, candidate, scale, Decision.ARGMAX)
    error = np.abs(reference.values.astype(np.float64) - candidate.values.astype(np.float64))
    assert figures.max_abs == error.max()
    assert figures.mean_abs == pytest.approx(error.mean(), rel=1e-12)
    assert figures.worst is not None
    worst = np.unravel_index(error.argmax(), error.shape)
    assert figures.worst.example == worst[0]
    assert figures.worst.reference == reference.values[worst]
    same = reference.values.argmax(1) == candidate.values.argmax(1)
    assert (figures.decisions, figures.agreed) == (700, same.sum())


@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_non_finite_values_are_counted_and_do_not_hide_the_rest(value: float) -> None:
    reference = rows([[1.0, 2.0], [3.0, 4.0]])
    candidate = rows([[value, 2.0], [3.0, 4.5]])
    scale = scale_of(iter([reference]))
    figures = measure(reference, candidate, scale, Decision.ARGMAX)
    assert figures.non_finite == 1
    assert figures.elements == 3
    assert figures.max_abs == 0.5
    assert figures.decisions == 1


def test_non_finite_values_of_the_reference_are_counted() -> None:
    scale = scale_of(iter([rows([[1.0, nan], [inf, 4.0]])]))
    assert scale.non_finite == 2
    assert scale.max == 4.0


def test_padding_may_hold_anything() -> None:
    valid = [[1, 1, 0]]
    reference = rows([[1.0, 2.0, nan]], valid)
    candidate = rows([[1.0, 2.0, inf]], valid)
    scale = scale_of(iter([reference]))
    figures = measure(reference, candidate, scale, Decision.ARGMAX)
    assert (scale.non_finite, figures.non_finite, figures.max_abs) == (0, 0, 0.0)
    assert (figures.agreed, figures.mean_kl) == (1, 0.0)


def test_signs_are_the_decisions_of_independent_labels() -> None:
    reference = rows([[1.0, -2.0, 1e-6]])
    candidate = rows([[1.5, 2.0, -1e-6]])
    scale = scale_of(iter([reference]))
    figures = measure(reference, candidate, scale, Decision.SIGNS)
    assert (figures.decisions, figures.agreed) == (3, 1)

    def kl(a: float, b: float) -> float:
        p, q = 1 / (1 + exp(-a)), 1 / (1 + exp(-b))
        return p * log(p / q) + (1 - p) * log((1 - p) / (1 - q))

    expected = [kl(1.0, 1.5), kl(-2.0, 2.0), kl(1e-6, -1e-6)]
    assert figures.sum_kl == pytest.approx(sum(expected), rel=1e-6)


def test_an_error_against_zeros_is_infinite() -> None:
    reference, candidate = rows([[0.0, 0.0]]), rows([[0.0, 1e-9]])
    scale = scale_of(iter([reference]))
    figures = measure(reference, candidate, scale, Decision.NONE)
    assert figures.max_relative == inf
    assert figures.spread_relative == inf
    same = measure(reference, reference, scale, Decision.NONE)
    assert same.max_relative == 0.0


def test_figures_of_parts_add_up() -> None:
    reference, candidate = random_rows(3, 31, 4, padded=True)
    scale = scale_of(iter([reference]))
    assert reference.valid is not None
    whole = measure(reference, candidate, scale, Decision.ARGMAX)
    parts = [
        measure(
            rows(reference.values[part], reference.valid[part]),
            rows(candidate.values[part], reference.valid[part]),
            scale,
            Decision.ARGMAX,
        )
        for part in (slice(0, 10), slice(10, 31))
    ]
    total = add(*parts)
    assert total.max_abs == whole.max_abs
    assert total.sum_squares == pytest.approx(whole.sum_squares, rel=1e-12)
    assert (total.agreed, total.decisions) == (whole.agreed, whole.decisions)
    assert total.min_cosine == whole.min_cosine
    assert total.sum_kl == pytest.approx(whole.sum_kl, rel=1e-12)


def test_rows_of_tokens_are_the_valid_ones() -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    mask = np.array([[1, 1, 0], [0, 0, 0]], np.bool_)
    found = rows_of(Task.TOKEN_CLASSIFICATION, values, mask)
    assert found.values.tolist() == values[0, :2].tolist()
    assert found.example.tolist() == [0, 0]
    assert found.position.tolist() == [0, 1]


def test_rows_of_texts_leave_out_those_without_a_token() -> None:
    mask = np.array([[1, 0], [0, 0], [1, 1]], np.bool_)
    logits = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], np.float32)
    whole = rows_of(Task.SEQUENCE_CLASSIFICATION, logits, mask)
    assert whole.values.tolist() == [[1.0, 2.0], [5.0, 6.0]]
    assert whole.example.tolist() == [0, 2]
    spans = rows_of(Task.QUESTION_ANSWERING, logits, mask)
    assert spans.valid is not None
    assert spans.valid.tolist() == [[True, False], [True, True]]


def test_choices_without_a_token_do_not_count() -> None:
    mask = np.array([[[1, 0], [0, 0], [1, 1]]], np.bool_)
    found = rows_of(Task.MULTIPLE_CHOICE, np.ones((1, 3), np.float32), mask)
    assert found.valid is not None
    assert found.valid.tolist() == [[True, False, True]]


def test_nothing_to_measure_gives_empty_figures() -> None:
    empty = rows(np.zeros((0, 3)))
    scale = scale_of(iter([empty]))
    assert scale == Scale(0, 0.0, 0.0, 0.0, 0.0, 0)
    figures = measure(empty, empty, scale, Decision.ARGMAX)
    assert (figures.elements, figures.mean_kl, figures.worst) == (0, None, None)


def test_the_worst_element_is_one_that_counts() -> None:
    reference, candidate = rows([[1.0, 2.0, 3.0]]), rows([[nan, 2.0, 3.0]])
    scale = scale_of(iter([reference]))
    figures = measure(reference, candidate, scale, Decision.NONE)
    assert figures.worst is not None
    assert (figures.worst.reference, figures.worst.candidate) == (2.0, 2.0)


def correlation(reference: Rows, candidate: Rows) -> float | None:
    return moments_of(reference, candidate.values).correlation


@pytest.mark.parametrize("padded", [False, True])
def test_correlation_matches_a_loop_over_columns(padded: bool) -> None:
    reference, candidate = random_rows(4, 40, 7, padded)
    top, first, second = 0.0, 0.0, 0.0
    for j in range(7):
        kept = [i for i in range(40) if reference.valid is None or reference.valid[i, j]]
        ref = [float(reference.values[i, j]) for i in kept]
        cand = [float(candidate.values[i, j]) for i in kept]
        one, two = sum(ref) / len(kept), sum(cand) / len(kept)
        top += sum((r - one) * (c - two) for r, c in zip(ref, cand, strict=True))
        first += sum((r - one) ** 2 for r in ref)
        second += sum((c - two) ** 2 for c in cand)
    expected = top / sqrt(first * second)
    assert correlation(reference, candidate) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5])
def test_a_constant_has_no_correlation_however_near_it_is(spread: float) -> None:
    generator = np.random.default_rng(2)
    reference = rows(100.0 + spread * 100.0 * generator.normal(size=(30, 3)))
    mean = np.broadcast_to(reference.values.mean(axis=0), reference.values.shape)
    assert correlation(reference, rows(mean)) == 0.0
    assert correlation(reference, reference) == pytest.approx(1.0)


def test_correlation_needs_rows_that_differ() -> None:
    generator = np.random.default_rng(2)
    few, same = rows(generator.normal(size=(9, 3))), rows(np.full((30, 3), 0.1))
    assert correlation(few, few) is None
    assert correlation(same, same) is None
    assert Moments().correlation is None


def test_moments_of_batches_add_up() -> None:
    reference, candidate = random_rows(8, 31, 6, padded=True)
    assert reference.valid is not None
    total = Moments()
    for part, width in ((slice(0, 10), 4), (slice(10, 31), 6)):
        reference.valid[part, width:] = False
        cut = rows(reference.values[part, :width], reference.valid[part, :width])
        total += moments_of(cut, candidate.values[part, :width])
    whole = correlation(reference, candidate)
    assert total.correlation == pytest.approx(whole, rel=1e-12)
