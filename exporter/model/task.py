"""The heads a checkpoint can have, and the names of what goes into and comes out of each."""

from __future__ import annotations

from enum import Enum
from typing import Literal, TypeAlias


class Task(str, Enum):
    """A head on top of the encoder; the value is its name on the command line."""

    BASE = "base"
    MASKED_LM = "masked-lm"
    SEQUENCE_CLASSIFICATION = "sequence-classification"
    TOKEN_CLASSIFICATION = "token-classification"
    QUESTION_ANSWERING = "question-answering"
    MULTIPLE_CHOICE = "multiple-choice"
    GLINER = "gliner"

    def __str__(self) -> str:
        return self.value


ARCHITECTURES = {
    "DebertaV2Model": Task.BASE,
    "DebertaV2ForMaskedLM": Task.MASKED_LM,
    "DebertaV2ForSequenceClassification": Task.SEQUENCE_CLASSIFICATION,
    "DebertaV2ForTokenClassification": Task.TOKEN_CLASSIFICATION,
    "DebertaV2ForQuestionAnswering": Task.QUESTION_ANSWERING,
    "DebertaV2ForMultipleChoice": Task.MULTIPLE_CHOICE,
}
"""Class names of transformers as they stand in `architectures` of config.json."""


LastLayer: TypeAlias = Literal["full", "first"]
"""What is computed of the last layer: every token, or the first alone."""


def last_layer_of(task: Task) -> LastLayer:
    """What a head reads of the last layer."""
    pooled = (Task.SEQUENCE_CLASSIFICATION, Task.MULTIPLE_CHOICE)
    return "first" if task in pooled else "full"


def output_names(task: Task) -> tuple[str, ...]:
    """Names of the model's outputs, in order."""
    if task is Task.BASE:
        return ("last_hidden_state",)
    if task is Task.QUESTION_ANSWERING:
        return ("start_logits", "end_logits")
    return ("logits",)


def input_names(type_vocab_size: int) -> tuple[str, ...]:
    """Names of the model's inputs, in order: int64, `(B, S)`, or `(B, C, S)` for multiple choice.

    `token_type_ids` is an input only where the model has embeddings for it.
    """
    names = ("input_ids", "attention_mask")
    return (*names, "token_type_ids") if type_vocab_size > 0 else names
