"""Decoding against answers worked out by hand."""

from __future__ import annotations

from math import exp
from typing import Any

import numpy as np
import pytest

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tokenization import Encoding
from exporter.inputs.encode import Example
from exporter.model.answer_spans import MAX_ANSWER_TOKENS
from exporter.model.task import Task
from exporter.predictions.decode import decode
from exporter.predictions.predicted import (
    Answer,
    AnswerPrediction,
    ChoicePrediction,
    LabelPrediction,
    MaskPrediction,
    Prediction,
    TokenPrediction,
    VectorPrediction,
)
from exporter.predictions.render import render


class Names:
    """The part of a tokenizer that decoding uses."""

    mask_token_id = 9

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        assert not skip_special_tokens
        return f"t{ids[0]}"


def row(ids: list[int], offsets: list[tuple[int, int]], sequences: list[int | None]) -> Encoding:
    """Tokens that are a word each."""
    types, size = (0,) * len(ids), len(ids)
    words = tuple(None if s is None else place for place, s in enumerate(sequences))
    return Encoding(tuple(ids), types, tuple(offsets), tuple(sequences), words, size)


def run(task: Task, example: Example, outputs: dict[str, Any], **changes: Any) -> Prediction:
    fields = {"model_type": "deberta-v2", "hidden_size": 8, "num_attention_heads": 2, **changes}
    shape = DebertaConfig.from_dict(fields).shape(task)
    arrays = {name: np.asarray(values, np.float32) for name, values in outputs.items()}
    return decode(shape, Names(), [example], [arrays])  # type: ignore[arg-type]


PLAIN = Example(
    "one two", (), (row([1, 5, 6, 2], [(0, 0), (0, 3), (3, 7), (0, 0)], [None, 0, 0, None]),)
)


def test_labels_are_probabilities_with_the_highest_first() -> None:
    labels = {"0": "bad", "1": "good", "2": "so-so"}
    found = run(Task.SEQUENCE_CLASSIFICATION, PLAIN, {"logits": [1.0, 3.0, 2.0]}, id2label=labels)
    assert isinstance(found, LabelPrediction)
    total = exp(1) + exp(2) + exp(3)
    assert [label.label for label in found.labels] == ["good", "so-so", "bad"]
    scores = [label.score for label in found.labels]
    assert scores == pytest.approx([exp(3) / total, exp(2) / total, exp(1) / total], rel=1e-12)
    assert found.kind == "softmax"


def test_independent_labels_have_their_own_probability() -> None:
    found = run(
        Task.SEQUENCE_CLASSIFICATION,
        PLAIN,
        {"logits": [-800.0, 0.0]},
        problem_type="multi_label_classification",
    )
    assert isinstance(found, LabelPrediction)
    assert [(label.label, label.score) for label in found.labels] == [
        ("LABEL_1", 0.5),
        ("LABEL_0", 0.0),
    ]


IDENTITY = "torch.nn.modules.linear.Identity"
SIGMOID = "torch.nn.modules.activation.Sigmoid"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "sigmoid"),
        ({"problem_type": "single_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "value"),
        ({"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.1.0"}}, "value"),
        ({"sentence_transformers": {"activation_fn": SIGMOID}}, "sigmoid"),
        ({"sbert_ce_default_activation_function": IDENTITY}, "value"),
        ({"sbert_ce_default_activation_function": SIGMOID}, "sigmoid"),
        ({"sentence_transformers": {"version": "5.0.0"}, "problem_type": "regression"}, "value"),
    ],
)
def test_one_label_is_a_probability_unless_the_configuration_says_otherwise(
    changes: dict[str, Any], kind: str
) -> None:
    found = run(Task.SEQUENCE_CLASSIFICATION, PLAIN, {"logits": [-1.5]}, num_labels=1, **changes)
    assert isinstance(found, LabelPrediction)
    assert found.kind == kind
    expected = -1.5 if kind == "value" else 1 / (1 + exp(1.5))
    assert [label.score for label in found.labels] == [pytest.approx(expected, rel=1e-12)]
    assert kind in render(found)


@pytest.mark.parametrize(
    "changes",
    [{"num_labels": 1, "problem_type": "regression"}, {"problem_type": "regression"}],
)
def test_a_text_and_a_label_are_a_line_each(changes: dict[str, Any]) -> None:
    fields = {**changes, "id2label": {"0": "so\nso"}}
    odd = Example("a\nb\x1b[2J", PLAIN.second, PLAIN.rows)
    found = run(Task.SEQUENCE_CLASSIFICATION, odd, {"logits": [0.0]}, **fields)
    assert len(render(found).splitlines()) == 2
    assert r"a\nb\x1b[2J" in render(found)


@pytest.mark.parametrize(
    "changes",
    [{"num_labels": 1, "problem_type": "regression"}, {"problem_type": "regression"}],
)
def test_regressions_keep_their_value(changes: dict[str, Any]) -> None:
    count = changes.get("num_labels", 2)
    logits = [-1.5, 3.0][:count]
    found = run(Task.SEQUENCE_CLASSIFICATION, PLAIN, {"logits": logits}, **changes)
    assert isinstance(found, LabelPrediction)
    assert found.kind == "value"
    assert [label.score for label in found.labels] == logits


def test_tokens_have_labels_and_character_offsets() -> None:
    logits = [[9, 0], [0, 2], [3, 0], [9, 0], [7, 7]]  # the last row is padding
    found = run(Task.TOKEN_CLASSIFICATION, PLAIN, {"logits": logits})
    assert isinstance(found, TokenPrediction)
    # The token of the second word begins with the space before it.
    assert [(t.token, t.start, t.end, t.label) for t in found.tokens] == [
        ("one", 0, 3, "LABEL_1"),
        ("two", 4, 7, "LABEL_0"),
    ]
    assert found.tokens[0].score == pytest.approx(1 / (1 + exp(-2)))


CONTEXT = "It is red and blue."
QUESTION = Example(
    "Which?",
    (CONTEXT,),
    (
        row(
            [1, 5, 2, 6, 7, 8, 9, 10, 11, 2],
            [(0, 0), (0, 6), (0, 0), (0, 2), (2, 5), (5, 9), (9, 13), (13, 18), (18, 19), (0, 0)],
            [None, 0, None, 1, 1, 1, 1, 1, 1, None],
        ),
    ),
)


def spans(start: dict[int, float], end: dict[int, float], size: int = 12) -> dict[str, Any]:
    """Logits of zero but for the given tokens; two padded positions hold the largest."""
    outputs = {}
    for name, given in (("start_logits", start), ("end_logits", end)):
        values = np.zeros(size)
        values[-2:] = 50.0
        for index, value in given.items():
            values[index] = value
        outputs[name] = values
    return outputs


def test_the_answer_is_the_best_span_of_the_context() -> None:
    found = run(Task.QUESTION_ANSWERING, QUESTION, spans({5: 4.0}, {7: 3.0}))
    assert isinstance(found, AnswerPrediction)
    start = exp(4) / (exp(4) + 6)  # five more tokens, and the null answer
    end = exp(3) / (exp(3) + 6)
    best = found.answers[0]
    assert (best.answer, best.start, best.end) == ("red and blue", 6, 18)
    assert best.score == pytest.approx(start * end, rel=1e-6)
    assert CONTEXT[best.start : best.end] == best.answer
    assert len(found.answers) == 3
    assert list(found.answers) == sorted(found.answers, key=lambda a: -a.score)


def test_an_answer_never_ends_before_it_starts_nor_lies_in_the_question() -> None:
    outputs = spans({7: 5.0, 1: 30.0, 0: 30.0}, {5: 4.0, 1: 30.0, 9: 30.0})
    found = run(Task.QUESTION_ANSWERING, QUESTION, outputs)
    assert isinstance(found, AnswerPrediction)
    for answer in found.answers:
        assert 0 <= answer.start < answer.end <= len(CONTEXT)
    # 7 as the start goes with any end from 7 on: zeros, all alike, so the first of them. The null
    # answer has most of the mass.
    assert found.answers[0].answer == "blue"


def test_an_answer_is_no_longer_than_the_maximum() -> None:
    words = MAX_ANSWER_TOKENS + 5
    context = " ".join("abcdefghijklmnopqrstuvwxyz0123456789"[:words])
    offsets = [(0, 0), (0, 0), (0, 0)] + [(2 * i, 2 * i + 1) for i in range(words)]
    sequences: list[int | None] = [None, 0, None] + [1] * words
    example = Example("q", (context,), (row(list(range(words + 3)), offsets, sequences),))
    outputs = {
        "start_logits": [0.0] * 3 + [20.0] + [0.0] * (words - 1),
        "end_logits": [0.0] * (words + 2) + [20.0],
    }
    found = run(Task.QUESTION_ANSWERING, example, outputs)
    assert isinstance(found, AnswerPrediction)
    assert all(len(answer.answer.split()) <= MAX_ANSWER_TOKENS for answer in found.answers)


def test_an_empty_context_has_no_answer() -> None:
    example = Example("q", ("",), (row([1, 5, 2, 2], [(0, 0)] * 4, [None, 0, None, None]),))
    found = run(
        Task.QUESTION_ANSWERING, example, {"start_logits": [0.0] * 4, "end_logits": [0.0] * 4}
    )
    read = {"tokens_read": 4, "tokens_total": 4, "truncated": False}
    assert found == AnswerPrediction("q", "", (), **read)  # type: ignore[arg-type]


def test_short_contexts_have_fewer_answers() -> None:
    example = Example("q", ("a",), (row([1, 2, 3], [(0, 0), (0, 0), (0, 1)], [None, None, 1]),))
    found = run(
        Task.QUESTION_ANSWERING, example, {"start_logits": [0.0] * 3, "end_logits": [0.0] * 3}
    )
    assert isinstance(found, AnswerPrediction)
    assert found.answers == (Answer("a", 0, 1, 0.25),)


def test_each_mask_has_its_likeliest_tokens() -> None:
    example = Example("a [MASK] b [MASK]", (), (row([1, 9, 4, 9], [(0, 0)] * 4, [None, 0, 0, 0]),))
    logits = np.zeros((5, 12))
    logits[1, 7] = 5.0
    logits[3, 2] = 4.0
    found = run(Task.MASKED_LM, example, {"logits": logits}, vocab_size=12)
    assert isinstance(found, MaskPrediction)
    assert [fills[0].token for fills in found.masks] == ["t7", "t2"]
    assert found.masks[0][0].score == pytest.approx(exp(5) / (exp(5) + 11), rel=1e-6)
    assert [fill.token for fill in found.masks[0][1:]] == ["t0", "t1", "t2", "t3"]


def test_a_text_without_mask_has_no_fills() -> None:
    found = run(Task.MASKED_LM, PLAIN, {"logits": np.zeros((4, 12))}, vocab_size=12)
    assert (found.text, found.masks, found.tokens_read) == ("one two", (), 4)


def test_choices_share_one_distribution_in_the_order_given() -> None:
    rows = (PLAIN.rows[0], PLAIN.rows[0])
    found = run(Task.MULTIPLE_CHOICE, Example("p", ("x", "y"), rows), {"logits": [0.0, 1.0]})
    assert isinstance(found, ChoicePrediction)
    assert found.best == 1
    assert [choice.label for choice in found.choices] == ["x", "y"]
    assert sum(choice.score for choice in found.choices) == pytest.approx(1.0)
    assert found.choices[1].score == pytest.approx(1 / (1 + exp(-1)))


def test_the_vector_is_the_mean_over_the_tokens_without_padding() -> None:
    hidden = np.arange(20, dtype=np.float32).reshape(5, 4)
    hidden[4] = 1e9  # padding
    found = run(Task.BASE, PLAIN, {"last_hidden_state": hidden})
    assert isinstance(found, VectorPrediction)
    assert found.tokens == 4
    assert found.vector == (6.0, 7.0, 8.0, 9.0)
