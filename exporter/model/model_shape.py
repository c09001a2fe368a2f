"""What a model takes and gives, whichever runtime computes it.

`B` batch, `C` choices, `S` sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.model.gliner_head import GlinerHead
from exporter.model.task import Task, input_names, output_names


@dataclass(frozen=True)
class ModelShape:
    """What a model takes and gives. Fields but `task` have the names and meaning of config.json.

    `vocab_size` and `type_vocab_size` (0 without types) are above every id. The model was trained
    for `max_position_embeddings` tokens; `position_biased_input` means absolute positions, and so
    no longer inputs. `problem_type` and `activation_fn` say what the logits of a classifier mean,
    see `label_kind`; `gliner` is the head of a GLiNER model, None of any other.
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
    activation_fn: str | None = None
    gliner: GlinerHead | None = None

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.id2label)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        if self.gliner is not None:
            return self.gliner.inputs
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

    @property
    def usual_longest(self) -> int:
        """The S that a model without a largest one is for: what it was trained for."""
        if self.gliner is None:
            return self.max_position_embeddings
        # Two tokens a word, and as many again as two thirds of the words for the labels.
        return self.longest or max(self.max_position_embeddings, 2 * self.gliner.max_len + 256)

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of every output for inputs of `input_shape`; of GLiNER the largest possible, which
        has half of the tokens as words and half of the rest as labels."""
        if self.gliner is not None:
            batch, length = input_shape[0], input_shape[-1]
            counts = (max(1, length // 2), max(1, length // 4))
            return (batch, counts[0], self.gliner.max_width, counts[1])
        return {
            Task.BASE: (*input_shape, self.hidden_size),
            Task.MASKED_LM: (*input_shape, self.vocab_size),
            Task.SEQUENCE_CLASSIFICATION: (input_shape[0], self.num_labels),
            Task.TOKEN_CLASSIFICATION: (*input_shape, self.num_labels),
            Task.QUESTION_ANSWERING: input_shape,
            Task.MULTIPLE_CHOICE: input_shape[:2],
        }[self.task]

    def counted(self, feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """True where these inputs are no padding; of GLiNER where the logits are of none."""
        if self.gliner is not None:
            return self.gliner.valid(feeds)
        kept: NDArray[np.bool_] = np.not_equal(feeds["attention_mask"], 0)
        return kept

    def output_shape_of(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
        """Shape of every output for these inputs."""
        if self.gliner is not None:
            return self.gliner.output_shape(feeds)
        return self.output_shape(feeds["input_ids"].shape)


LABEL_KINDS = {"Sigmoid": "sigmoid", "Identity": "value"}
"""Classes that a CrossEncoder may apply to its one logit, and what it is then."""


def label_kind(shape: ModelShape) -> str:
    """What the logits of a sequence classifier mean: "softmax", "sigmoid" or "value".

    As the pipeline of transformers reads them, one alone also as CrossEncoder of
    sentence-transformers, which keeps the name of what it applies in config.json.
    """
    if shape.num_labels == 1 and shape.activation_fn is not None:
        return LABEL_KINDS.get(shape.activation_fn.rpartition(".")[2], "value")
    if shape.problem_type == "regression":
        return "value"
    one = shape.num_labels == 1 or shape.problem_type == "multi_label_classification"
    return "sigmoid" if one else "softmax"
