"""The models of the tasks: one backbone, `modeling.DebertaModel`, and what reads its hidden state.

Attributes carry the names that checkpoints use. `B` batch, `S` sequence, `E` hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from exporter.deberta.activations import fixed_activation, make_activation
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.gliner_modeling import Gliner
from exporter.deberta.modeling import DebertaModel, Encoder, SelfAttention
from exporter.errors import InputError
from exporter.model.task import LastLayer, Task, last_layer_of

AttentionKind = Literal["eager", "fused"]


class ModelWithHead(nn.Module, ABC):
    """Embeddings and encoder, and a head that makes the outputs of their hidden state."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.deberta = DebertaModel(config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """`(B, S)` each -> what `head` makes of the hidden state."""
        (hidden,) = self.deberta(input_ids, attention_mask, token_type_ids)
        return self.head(hidden)

    @abstractmethod
    def head(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """The outputs, from the last hidden state `(B, S, E)`."""


class Pooler(nn.Module):
    """The first token's hidden state through a linear layer and an activation."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = fixed_activation(config.pooler_hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, S, E)` -> `(B, E)`."""
        pooled: Tensor = self.activation(self.dense(hidden.select(1, 0)))
        return pooled


class SequenceClassification(ModelWithHead):
    """One vector of logits for a text or a pair."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def head(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`(B, S, E)` -> `logits` `(B, num_labels)`."""
        return (self.classifier(self.pooler(hidden)),)


class TokenClassification(ModelWithHead):
    """One vector of logits for each token."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def head(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`(B, S, E)` -> `logits` `(B, S, num_labels)`."""
        return (self.classifier(hidden),)


class QuestionAnswering(ModelWithHead):
    """Scores of each token as the start and as the end of the answer."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            labels = f"id2label has {config.num_labels} labels"
            raise InputError(f"{labels}; question answering needs 2 (start, end)")
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def head(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`(B, S, E)` -> `start_logits`, `end_logits`, `(B, S)` each."""
        logits = self.qa_outputs(hidden)
        return logits.select(-1, 0), logits.select(-1, 1)


class MultipleChoice(ModelWithHead):
    """One score for each of `C` choices."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__(config)
        self.pooler = Pooler(config)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """`(B, C, S)` each -> `logits` `(B, C)`."""
        types = None if token_type_ids is None else token_type_ids.flatten(0, 1)
        (scores,) = super().forward(input_ids.flatten(0, 1), attention_mask.flatten(0, 1), types)
        return (scores.view(input_ids.shape[:2]),)

    def head(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`(B*C, S, E)` -> scores `(B*C, 1)`."""
        return (self.classifier(self.pooler(hidden)),)


class Transform(nn.Module):
    """Linear layer, activation, LayerNorm: what both masked LM heads begin with."""

    def __init__(self, config: DebertaConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, width)
        self.transform_act_fn = make_activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        """`(B, S, E)` -> `(B, S, width)`."""
        normed: Tensor = self.LayerNorm(self.transform_act_fn(self.dense(hidden)))
        return normed


class LegacyMaskedLM(ModelWithHead):
    """Masked LM with the head that transformers has always had (`legacy` true)."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__(config)
        transform = Transform(config, config.embedding_width)
        decoder = nn.Linear(config.embedding_width, config.vocab_size)
        predictions = nn.Sequential(OrderedDict(transform=transform, decoder=decoder))
        self.cls = nn.ModuleDict({"predictions": predictions})

    def head(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`(B, S, E)` -> `logits` `(B, S, vocab_size)`."""
        return (self.cls["predictions"](hidden),)


class LMHead(Transform):
    """The masked LM head of Microsoft's code: the word embeddings are its last matrix."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__(config, config.hidden_size)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:  # type: ignore[override]
        """`(B, S, E)` and `(vocab_size, E)` -> `(B, S, vocab_size)`."""
        return nn.functional.linear(super().forward(hidden), word_embeddings, self.bias)


class MaskedLM(ModelWithHead):
    """Masked LM with the new head (`legacy` false), tensors under `lm_predictions.lm_head`."""

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__(config)
        if config.embedding_width != config.hidden_size:
            raise InputError(
                f"embedding_size is {config.embedding_size}; the masked LM head with legacy=false "
                f"needs hidden_size ({config.hidden_size})"
            )
        self.lm_predictions = nn.ModuleDict({"lm_head": LMHead(config)})

    def head(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """`(B, S, E)` -> `logits` `(B, S, vocab_size)`."""
        embeddings = self.deberta.embeddings.word_embeddings.weight
        return (self.lm_predictions["lm_head"](hidden, embeddings),)


_MODELS: dict[Task, type[DebertaModel | ModelWithHead | Gliner]] = {
    Task.BASE: DebertaModel,
    Task.MASKED_LM: MaskedLM,
    Task.SEQUENCE_CLASSIFICATION: SequenceClassification,
    Task.TOKEN_CLASSIFICATION: TokenClassification,
    Task.QUESTION_ANSWERING: QuestionAnswering,
    Task.MULTIPLE_CHOICE: MultipleChoice,
    Task.GLINER: Gliner,
}


def make_model(
    config: DebertaConfig,
    task: Task,
    attention: AttentionKind = "eager",
    last_layer: LastLayer = "full",
) -> nn.Module:
    """The model for a task, uninitialised but for torch's defaults; see `checkpoint.load_model`.

    `eager` attention is the definition, in PyTorch's own operators; `fused` calls the operator of
    `plugins.disentangled_attention.torch_operator`, one kernel on CUDA, for inference. With
    `last_layer` "first" the last layer computes the first token alone, for heads that read no
    other. Raises InputError when the configuration or `last_layer` does not fit the task, or there
    is no such attention.
    """
    if attention not in ("eager", "fused"):
        raise InputError(f"attention is {attention!r}; there are eager and fused")
    legacy = task is Task.MASKED_LM and config.legacy
    model = (LegacyMaskedLM if legacy else _MODELS[task])(config)
    if attention == "fused":
        from plugins.disentangled_attention.torch_operator import disentangled_attention as fused

        for module in encoder_of(model).modules():
            if isinstance(module, SelfAttention):
                module.attend = fused
    if last_layer == "first":
        if last_layer_of(task) != "first":
            raise InputError(f"--last-layer first: {task} reads every token of the last layer")
        encoder_of(model).keep_first()
    return model


def base_of(model: nn.Module) -> DebertaModel:
    """What the head of a model reads; TypeError for a model that `make_model` did not make."""
    base = model.deberta if isinstance(model, (ModelWithHead, Gliner)) else model
    if not isinstance(base, DebertaModel):
        raise TypeError(f"not a model of this package: {type(model).__name__}")
    return base


def encoder_of(model: nn.Module) -> Encoder:
    """The encoder of a model that `make_model` made; TypeError when something else made it."""
    return base_of(model).encoder
