"""What a model takes and gives, whichever runtime computes it.

`B` batch, `C` choices, `S` sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from exporter.model.task import Task, input_names, output_names


@dataclass(frozen=True)
class ModelShape:
    """What a model takes and gives. Fields but `task` have the names and meaning of config.json.

    Attributes:
        task: the head.
        vocab_size: token ids are below it.
        type_vocab_size: token types are below it; 0 where the model has none.
        pad_token_id: id that fills padded positions.
        hidden_size: width of a hidden state.
        num_hidden_layers: number of layers.
        max_position_embeddings: length in tokens that the model was trained for.
        position_biased_input: whether it has absolute positions, and so no longer inputs.
        id2label: name of each class.
        problem_type: what the logits of a classifier mean, see `label_kind`.
    """

    task: Task
    vocab_size: int
    type_vocab_size: int
    pad_token_id: int
    hidden_size: int
    num_hidden_layers: int
    max_position_embeddings: int
    position_biased_input: bool
    id2label: Mapping[int, str]
    problem_type: str | None

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.id2label)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return input_names(self.type_vocab_size)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return output_names(self.task)

    @property
    def rank(self) -> int:
        """Dimensions of an input: 2 for `(B, S)`, 3 for `(B, C, S)`."""
        return 3 if self.task is Task.MULTIPLE_CHOICE else 2

    @property
    def longest(self) -> int | None:
        """Largest possible S; None where all positions are relative."""
        return self.max_position_embeddings if self.position_biased_input else None

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of every output for inputs of `input_shape`."""
        if self.task is Task.MULTIPLE_CHOICE:
            return input_shape[:2]
        if self.task is Task.QUESTION_ANSWERING:
            return input_shape
        if self.task is Task.SEQUENCE_CLASSIFICATION:
            return (input_shape[0], self.num_labels)
        width = {
            Task.BASE: self.hidden_size,
            Task.MASKED_LM: self.vocab_size,
            Task.TOKEN_CLASSIFICATION: self.num_labels,
        }[self.task]
        return (*input_shape, width)


def label_kind(shape: ModelShape) -> str:
    """What the logits of a sequence classifier mean: "softmax", "sigmoid" or "value"."""
    if shape.problem_type == "multi_label_classification":
        return "sigmoid"
    if shape.problem_type == "regression" or shape.num_labels == 1:
        return "value"
    return "softmax"
