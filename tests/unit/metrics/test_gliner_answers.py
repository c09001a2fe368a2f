"""Entities of GLiNER compared: what is lost, made up, a near tie, and how far scores move."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.metrics.gliner_answers import FoundSpans, found_spans
from exporter.model.gliner_entities import WordSpan, chosen, span_logits
from exporter.model.gliner_head import TOKENS, GlinerHead, text_feeds

HEAD = GlinerHead(max_width=2, class_token_index=9)
FEEDS = {
    "input_ids": np.array([[1, 9, 4, 9, 5, 2]]),
    "attention_mask": np.ones((1, 6), np.int64),
    **text_feeds(HEAD, np.array([3])),
}
"""Three words and two labels."""


def logits(**entities: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """`(1, 3, 2, 2)`, -5 but for spans, named as in `s0w1c0`."""
    values = np.full((1, 3, 2, 2), -5.0)
    for name, value in entities.items():
        start, width, label = int(name[1]), int(name[3]), int(name[5])
        values[0, start, width, label] = value
    return values


def compared(ref: dict[str, float], cand: dict[str, float]) -> FoundSpans:
    return found_spans(HEAD, FEEDS, logits(**ref), logits(**cand))


def test_equal_entities() -> None:
    found = compared({"s0w0c0": 2.0, "s1w1c1": 1.0}, {"s0w0c0": 2.0, "s1w1c1": 1.0})
    assert found.scores(0.0) == {
        "entity_precision": 1.0,
        "entity_recall": 1.0,
        "score_shift": 0.0,
    }


def test_what_is_lost_and_made_up() -> None:
    found = compared({"s0w0c0": 3.0, "s1w0c0": 2.0}, {"s0w0c0": 1.0, "s2w0c1": 2.0})
    scores = found.scores(0.0)
    assert (scores["entity_precision"], scores["entity_recall"]) == (0.5, 0.5)
    shift = 1 / (1 + np.exp(-3.0)) - 1 / (1 + np.exp(-1.0))
    assert scores["score_shift"] == pytest.approx(shift)


def test_a_near_tie_counts_as_the_reference() -> None:
    found = compared({"s0w0c0": 0.01}, {"s0w0c0": -0.01, "s2w0c1": 0.3})
    assert found.scores(0.02)["entity_recall"] == 1.0
    assert found.scores(0.02)["entity_precision"] == 0.0
    assert found.scores(0.0)["entity_recall"] == 0.0


def test_an_entity_in_the_place_of_another_is_a_tie_of_both() -> None:
    found = compared({"s0w0c0": 2.0, "s0w1c0": 1.9}, {"s0w0c0": 1.9, "s0w1c0": 2.0})
    assert found.margin.tolist() == pytest.approx([0.1, 0.1])
    assert found.scores(0.11)["entity_precision"] == 1.0
    assert found.scores(0.05)["entity_recall"] == 0.0


def test_nothing_found_is_no_figure() -> None:
    assert set(compared({}, {}).scores(0.0).values()) == {None}


def test_padding_is_no_entity() -> None:
    # The last word has no span of two words.
    assert not len(compared({"s2w1c0": 4.0}, {"s2w1c0": 4.0}).margin)


def test_overlaps() -> None:
    spans = [WordSpan(0, 2, 0, 3.0), WordSpan(1, 1, 0, 2.0), WordSpan(1, 1, 1, 1.0)]
    spans += [WordSpan(2, 4, 0, 0.5), WordSpan(5, 5, 0, 0.1)]
    assert [s.logit for s in chosen(spans)] == [3.0, 0.1]
    assert [s.logit for s in chosen(spans, nested=True)] == [3.0, 2.0, 0.1]
    assert [s.logit for s in chosen(spans, nested=True, multi_label=True)] == [3.0, 2.0, 1.0, 0.1]


def test_words_of_a_token_model_are_joined() -> None:
    head = GlinerHead(span_mode=TOKENS)
    values = np.full((4, 1, 3), -3.0)
    values[0, 0, 0] = values[2, 0, 1] = 2.0
    values[:3, 0, 2] = (1.0, 0.5, 1.5)
    assert span_logits(head, values, 4, 1, 0.5) == [WordSpan(0, 2, 0, 0.5)]
    assert span_logits(head, values, 4, 1, 0.7) == []  # the word between is below
    assert span_logits(head, values, 2, 1, 0.5) == []  # its end is padding
