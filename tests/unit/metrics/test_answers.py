"""Orders, entities, answers and fills against small cases worked by hand and plain formulas."""

from __future__ import annotations

from itertools import combinations
from types import MappingProxyType

import numpy as np
import pytest

from exporter.deberta.configuration import DebertaConfig
from exporter.metrics.answers import (
    FILLS,
    Answers,
    Entities,
    Fills,
    Ranking,
    Spans,
    answers_of,
    spearman,
)
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def shape_of(task: Task, names: tuple[str, ...] = NAMES) -> ModelShape:
    labels = MappingProxyType(dict(enumerate(names)))
    return DebertaConfig(hidden_size=8, num_attention_heads=2, id2label=labels).shape(task)


def floats(values: object) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, np.float64)


def pearson_of_mean_ranks(first: list[float], second: list[float]) -> float:
    """Spearman as its definition says, with loops: ranks are counted, not sorted."""

    def ranks(values: list[float]) -> list[float]:
        return [
            sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2
            for value in values
        ]

    one, two = ranks(first), ranks(second)
    mean = (len(first) + 1) / 2
    top = sum((a - mean) * (b - mean) for a, b in zip(one, two, strict=True))
    below = sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in two)
    return float(top / below**0.5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [3, 10, 10**6])
def test_spearman_is_the_correlation_of_mean_ranks(seed: int, steps: int) -> None:
    generator = np.random.default_rng(seed)
    first = generator.integers(0, steps, 40).astype(float)
    second = first + generator.integers(0, steps, 40)
    expected = pearson_of_mean_ranks(first.tolist(), second.tolist())
    assert spearman(first, second) == pytest.approx(expected, abs=1e-12)


def test_spearman_of_orders_without_ties_follows_the_differences_of_ranks() -> None:
    first = np.arange(10.0)
    swapped = floats([1, 0, 2, 3, 4, 5, 6, 7, 8, 9])
    assert spearman(first, swapped) == pytest.approx(1 - 6 * 2 / (10 * 99), abs=1e-12)
    assert spearman(first, -first) == pytest.approx(-1.0)
    assert spearman(first, np.exp(first)) == pytest.approx(1.0)


def test_spearman_of_constants_and_of_few_values() -> None:
    first = np.arange(10.0)
    assert spearman(first, np.full(10, 3.0)) == 0.0
    assert spearman(np.full(10, 3.0), first) is None
    assert spearman(first[:9], first[:9]) is None


def ranking(query: list[str], reference: list[float], candidate: list[float]) -> Ranking:
    return Ranking(np.array(query, np.object_), floats(reference), floats(candidate))


def test_only_candidates_of_the_same_query_are_put_in_order() -> None:
    # Between queries and without one, any order will do.
    found = ranking(["a", "b", "", "a", ""], [1.0, 5.0, 2.0, 3.0, 9.0], [2.0, 0.0, 8.0, 4.0, 1.0])
    assert found.scores(0.0)["order_flips"] == 0.0
    turned = ranking(["a", "a", "a"], [1.0, 2.0, 3.0], [2.0, 1.0, 3.0])
    assert turned.scores(0.0)["order_flips"] == pytest.approx(1 / 3)
    assert ranking(["", ""], [1.0, 2.0], [2.0, 1.0]).scores(0.0)["order_flips"] is None


def test_the_order_of_all_pairs_by_a_loop() -> None:
    generator = np.random.default_rng(3)
    query = [str(i) for i in generator.integers(0, 4, 30)]
    ref, cand = generator.normal(size=(2, 30))
    pairs = [(i, j) for i, j in combinations(range(30), 2) if query[i] == query[j]]
    flips = sum((ref[i] > ref[j]) != (cand[i] > cand[j]) for i, j in pairs)
    found = ranking(query, list(ref), list(cand)).scores(0.0)["order_flips"]
    assert found == pytest.approx(flips / len(pairs))


def test_an_order_within_a_near_tie_is_not_flipped_and_a_constant_turns_every_pair() -> None:
    near = ranking(["a"] * 4, [0.0, 0.001, 1.0, 2.0], [0.001, 0.0, 1.0, 2.0])
    assert near.scores(0.004)["order_flips"] == 0.0
    assert near.scores(0.0)["order_flips"] == pytest.approx(1 / 6)
    constant = ranking(["a"] * 3, [1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
    assert constant.scores(0.0)["order_flips"] == 1.0


def test_batches_of_one_query_are_ranked_together() -> None:
    parts = ranking(["a"], [1.0], [2.0]) + ranking(["a"], [2.0], [1.0])
    assert parts.scores(0.0)["order_flips"] == 1.0


def tokens(reference: str, candidate: str, margin: float = 1.0) -> Entities:
    one, two = (np.array([NAMES.index(n) for n in side.split()]) for side in (reference, candidate))
    starts = np.arange(len(one)) == 0
    return Entities(NAMES, starts, one, two, np.where(one == two, 0.0, margin))


def test_precision_and_recall_of_entities() -> None:
    found = tokens("B-PER I-PER O B-LOC O", "B-PER O O B-LOC B-LOC").scores(0.0)
    # Of (0,1), (3,4), (4,5) one is right; of (0,2), (3,4) one is found.
    assert found == {"entity_precision": pytest.approx(1 / 3), "entity_recall": 0.5}
    assert tokens("O O", "O B-PER").scores(0.0) == {
        "entity_precision": 0.0,
        "entity_recall": None,
    }
    assert tokens("O B-PER", "O O").scores(0.0) == {
        "entity_precision": None,
        "entity_recall": 0.0,
    }


def test_a_token_within_a_near_tie_breaks_no_entity() -> None:
    found = tokens("B-PER I-PER O", "B-PER O O", margin=0.1)
    assert found.scores(0.1)["entity_recall"] == 1.0
    assert found.scores(0.099)["entity_recall"] == 0.0


def one_hot(length: int, place: int) -> list[float]:
    return [9.0 if index == place else 0.0 for index in range(length)]


def answers(
    reference: tuple[int, int], candidate: tuple[int, int], asked: list[int] | None = None
) -> Answers:
    names = ("start_logits", "end_logits")
    sides = [
        {name: floats([one_hot(6, place)]) for name, place in zip(names, side, strict=True)}
        for side in (reference, candidate)
    ]
    mask = np.array([asked or [1] * 6], np.bool_)
    found = answers_of(shape_of(Task.QUESTION_ANSWERING), *sides, mask, [""])
    assert found is not None
    return found


def test_answers_are_compared_by_their_tokens() -> None:
    assert answers((1, 3), (1, 3)).scores(0.0) == {"exact_match": 1.0, "answer_f1": 1.0}
    # Tokens 1 to 3 and 2 to 4: two of three are common in both.
    found = answers((1, 3), (2, 4)).scores(0.0)
    assert found == {"exact_match": 0.0, "answer_f1": pytest.approx(2 / 3)}
    assert answers((0, 1), (3, 4)).scores(0.0)["answer_f1"] == 0.0
    # Outside the context there is no answer, however likely.
    assert answers((1, 3), (1, 3), [0, 0, 1, 1, 1, 1]).scores(0.0)["exact_match"] == 1.0


def test_an_answer_within_a_near_tie_is_the_references() -> None:
    # Start and end differ by 9 logits each; four logits err where a decision has two.
    found = answers((1, 3), (2, 4))
    assert isinstance(found, Spans)
    assert found.margin == pytest.approx([18 / 2**0.5])
    assert found.scores(13.0) == {"exact_match": 1.0, "answer_f1": 1.0}
    both = found + answers((1, 3), (1, 3))
    assert both.scores(0.0)["exact_match"] == 0.5


def test_fills_are_those_among_the_references_five() -> None:
    ref = floats([[[9, 8, 7, 6, 5, 4.9, 0, 0], [9, 8, 7, 6, 5, 4, 0, 0]]])
    cand = floats([[[9, 8, 7, 6, 0, 5, 0, 0], [9, 8, 0, 0, 0, 7, 6, 5]]])
    mask = np.ones((1, 2), np.bool_)
    names = tuple(f"t{i}" for i in range(8))
    found = answers_of(
        shape_of(Task.MASKED_LM, names), {"logits": ref}, {"logits": cand}, mask, [""]
    )
    assert isinstance(found, Fills)
    assert found.margin.shape == (2, FILLS)
    assert found.scores(0.0)["top5_overlap"] == pytest.approx((4 + 2) / 10)
    assert found.scores(0.11)["top5_overlap"] == pytest.approx((5 + 2) / 10)


def test_only_tokens_that_are_asked_count() -> None:
    ref, cand = floats([[[1, 0], [0, 1]]]), floats([[[1, 0], [1, 0]]])
    shape = shape_of(Task.TOKEN_CLASSIFICATION, ("O", "B-X"))
    mask = np.array([[True, False]])
    found = answers_of(shape, {"logits": ref}, {"logits": cand}, mask, [""])
    assert isinstance(found, Entities)
    assert found.reference.tolist() == found.candidate.tolist() == [0]
    assert answers_of(shape, {"logits": ref}, {"logits": cand}, ~mask & mask, [""]) is None


@pytest.mark.parametrize(
    ("task", "labels", "subject"),
    [
        (Task.SEQUENCE_CLASSIFICATION, ("score",), "ranking"),
        (Task.SEQUENCE_CLASSIFICATION, ("no", "yes"), None),
        (Task.BASE, ("no", "yes"), None),
        (Task.MULTIPLE_CHOICE, ("score",), None),
    ],
)
def test_a_head_with_one_label_ranks(
    task: Task, labels: tuple[str, ...], subject: str | None
) -> None:
    shape = shape_of(task, labels)
    outputs = {name: np.ones(shape.output_shape((2,) * shape.rank)) for name in shape.outputs}
    mask = np.ones((2,) * shape.rank, np.bool_)
    found = answers_of(shape, outputs, outputs, mask, ["", ""])
    assert (found and found.subject) == subject
