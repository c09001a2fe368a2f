"""Answers against those that transformers 4.57 gave, also over windows (`tests/golden`)."""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tokenizer_files import write_tokenizer_files

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tokenization import load_tokenizer
from exporter.inputs.encode import Example, TextEncoder
from exporter.model.task import Task
from exporter.predictions.decode import decode
from exporter.predictions.predicted import AnswerPrediction
from exporter.predictions.prediction_options import PredictionOptions

GOLDEN = Path(__file__).parents[2] / "golden"
sys.path.insert(0, str(GOLDEN))
from question_logits import question_logits  # noqa: E402

SHAPE = DebertaConfig(hidden_size=8, num_attention_heads=2).shape(Task.QUESTION_ANSWERING)


@pytest.fixture(scope="module")
def cases() -> list[dict[str, Any]]:
    content = gzip.decompress((GOLDEN / "question_answers.json.gz").read_bytes())
    found: list[dict[str, Any]] = json.loads(content)
    return found


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    folder = tmp_path_factory.mktemp("tokenizer") / "checkpoint"
    write_tokenizer_files(folder)
    return TextEncoder(load_tokenizer(folder), Task.QUESTION_ANSWERING, 384)


def answer(
    encoder: TextEncoder, question: str, context: str, given: dict[str, Any]
) -> tuple[AnswerPrediction, tuple[Example, ...]]:
    """What is predicted with the options of the pipeline."""
    options = PredictionOptions(
        top_k=given["top_k"],
        stride=given.get("doc_stride"),
        null_answer=given.get("handle_impossible_answer", False),
        split_words=not given.get("align_to_words", True),
        answer_tokens=given.get("max_answer_len"),
    )
    length = given.get("max_seq_len", encoder.max_length)
    some = TextEncoder(encoder.tokenizer, encoder.task, length)
    windows = some.windows((question, context), options.stride)
    ids = [np.array(window.rows[0].input_ids) for window in windows]
    outputs = [
        {"start_logits": question_logits(row, 3), "end_logits": question_logits(row, 11)}
        for row in ids
    ]
    found = decode(SHAPE, encoder.tokenizer, windows, outputs, options)
    assert isinstance(found, AnswerPrediction)
    return found, windows


def test_answers_are_those_of_the_pipeline(
    cases: list[dict[str, Any]], encoder: TextEncoder
) -> None:
    several = 0
    for case in cases:
        context = case["context"]
        # The pipeline fills its list with spans that end before they begin, whose score is 0.
        wanted = [item["score"] for item in case["answers"] if item["score"] > 0]
        found, windows = answer(encoder, case["question"], context, case["options"])
        if len(windows) > 8 or (len(windows) > 1 and case["options"]["top_k"] <= 5):
            continue  # not all spans are in the golden list, or words are cut in it
        several += len(windows) > 1
        found = replace(found, answers=found.answers[: len(wanted)])
        scores = [item.score for item in found.answers]
        assert scores == pytest.approx(wanted, rel=1e-5, abs=1e-6), case["question"]
        # Their spans have the space before a word. Equal scores have no order.
        spans, theirs = (
            {text.strip(): score for text, score in pairs if clear(score, scores)}
            for pairs in (
                [(item.answer, item.score) for item in found.answers],
                [(item["answer"], item["score"]) for item in case["answers"]],
            )
        )
        assert spans == pytest.approx(theirs, rel=1e-5, abs=1e-6)
        for item in found.answers:
            assert context[item.start : item.end] == item.answer
        assert (found.truncated, found.tokens_read) == (False, found.tokens_total)
    assert several > 30


def clear(score: float, scores: list[float]) -> bool:
    """Whether no other score is as good as this one, nor is it the last, which a tie may change."""
    return sum(abs(score - other) < 1e-6 for other in scores) == 1 and score > min(scores) + 1e-6


def test_no_answer_begins_or_ends_within_a_word_even_where_windows_cut_one(
    cases: list[dict[str, Any]], encoder: TextEncoder
) -> None:
    for case in cases[:60]:
        context = case["context"]
        options = {"top_k": 20, "max_seq_len": 24, "doc_stride": 2}
        found, _ = answer(encoder, "who?", context, options)
        for item in found.answers:
            assert item.start == 0 or context[item.start - 1].isspace()
            assert item.end == len(context) or context[item.end].isspace()


def test_the_question_is_whole_in_every_window(encoder: TextEncoder) -> None:
    _, windows = answer(encoder, "who is it?", "a good film " * 60, {"top_k": 1, "max_seq_len": 40})
    question = encoder.tokenizer.encode("who is it?").input_ids
    assert len(windows) > 4
    for window in windows:
        assert window.rows[0].input_ids[: len(question)] == question
