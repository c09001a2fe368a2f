"""Writes the golden answers of transformers 4.x, whose question answering pipeline version 5 lacks.

    python -m venv tf4 && tf4/bin/pip install 'transformers<5' torch sentencepiece protobuf
    tf4/bin/python tests/golden/make_question_answers.py

The model is the formula of `question_logits.py`; contexts are the demo's calibration texts, some
joined to longer ones. Written to `tests/golden/question_answers.json.gz`: a list of cases with
`question`, `context`, `options` and the pipeline's `answers`. The pipeline shows a part of a word
as an answer where a window cuts the word: of windows, the five best are written with words whole.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from question_logits import question_logits
from transformers import DebertaV2Config, DebertaV2ForQuestionAnswering, DebertaV2TokenizerFast
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.pipelines import QuestionAnsweringPipeline

HERE = Path(__file__).parent
TEXTS = HERE.parents[1] / "exporter" / "demo" / "checkpoint" / "calibration.txt"
OPTIONS: tuple[dict[str, Any], ...] = (
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 3, "handle_impossible_answer": True},
    {"top_k": 4, "align_to_words": False},
    {"top_k": 3, "max_answer_len": 4},
    {"top_k": 2500, "max_seq_len": 48, "doc_stride": 12},
    {"top_k": 2500, "max_seq_len": 64, "doc_stride": 20, "handle_impossible_answer": True},
)
COUNT = 210


class Formula(DebertaV2ForQuestionAnswering):
    """`question_logits` in the place of a model."""

    def forward(self, input_ids: torch.Tensor, **_: object) -> QuestionAnsweringModelOutput:
        starts, ends = (question_logits(input_ids.numpy(), factor) for factor in (3, 11))
        return QuestionAnsweringModelOutput(
            start_logits=torch.from_numpy(starts), end_logits=torch.from_numpy(ends)
        )


def with_whole_words(context: str, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers with the whole words that each lies in, equal ones added up, best first."""
    merged: dict[str, dict[str, Any]] = {}
    for item in answers:
        start, end = item["start"], item["end"]
        start += len(context[start:end]) - len(context[start:end].lstrip())
        while 0 < start < end and not context[start - 1].isspace():
            start -= 1
        while start < end < len(context) and not context[end].isspace():
            end += 1
        text = context[start:end]
        whole = {"score": 0.0, "start": start, "end": end, "answer": text}
        key = context[max(start - 1, 0) : end].lower()  # to the pipeline the space is a part of it
        merged.setdefault(key, whole)["score"] += item["score"]
    return sorted(merged.values(), key=lambda item: -item["score"])


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as folder:
        content = gzip.decompress((HERE / "tokenizer" / "tokenizer.json.gz").read_bytes())
        (Path(folder) / "tokenizer.json").write_bytes(content)
        tokenizer = DebertaV2TokenizerFast.from_pretrained(folder, model_max_length=512)
    config = DebertaV2Config(
        vocab_size=1700, hidden_size=8, num_attention_heads=1, num_hidden_layers=1,
        intermediate_size=8,
    )  # fmt: skip
    pipeline = QuestionAnsweringPipeline(Formula(config), tokenizer)
    lines = [line.split("\t")[0] for line in TEXTS.read_text(encoding="utf-8").splitlines()]
    cases = []
    for number in range(COUNT):
        options = OPTIONS[number % len(OPTIONS)]
        length = 1 + number % (3 if options["top_k"] > 5 else 7) * 3
        question, *context = lines[number : number + 1 + length]
        question, text = " ".join(question.split()[:8]), " ".join(context)
        answers = pipeline(question=question, context=text, **options)
        answers = answers if isinstance(answers, list) else [answers]
        if options["top_k"] > 5:
            answers = with_whole_words(text, answers)[:5]
        cases.append(
            {"question": question, "context": text, "options": options, "answers": answers}
        )
    content = json.dumps(cases, ensure_ascii=False, indent=0).encode()
    (HERE / "question_answers.json.gz").write_bytes(gzip.compress(content, mtime=0))
    print(f"{len(cases)} cases, {sum(len(case['answers']) for case in cases)} answers")


if __name__ == "__main__":
    main()
