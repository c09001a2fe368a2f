"""Random DeBERTa-v2 configurations and models of `transformers`, the reference of many tests."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from exporter.model.task import Task
from tools.random_configurations import random_config as random_config

HF_CLASSES = {
    Task.BASE: transformers.DebertaV2Model,
    Task.MASKED_LM: transformers.DebertaV2ForMaskedLM,
    Task.SEQUENCE_CLASSIFICATION: transformers.DebertaV2ForSequenceClassification,
    Task.TOKEN_CLASSIFICATION: transformers.DebertaV2ForTokenClassification,
    Task.QUESTION_ANSWERING: transformers.DebertaV2ForQuestionAnswering,
    Task.MULTIPLE_CHOICE: transformers.DebertaV2ForMultipleChoice,
}


def random_model(fields: dict[str, Any], task: Task, seed: int) -> transformers.PreTrainedModel:
    """A model of `transformers` with every parameter random, in evaluation mode and fp32.

    Weights are large enough that the attention is far from uniform and every path shows.
    """
    torch.manual_seed(seed)
    config = transformers.DebertaV2Config(**fields)
    model = HF_CLASSES[task](config).float().eval()
    width = fields["num_attention_heads"] * fields.get(
        "attention_head_size", fields["hidden_size"] // fields["num_attention_heads"]
    )
    if width != fields["hidden_size"]:
        # transformers reads attention_head_size but sizes this matrix by hidden_size, so that it
        # could not run: what the configuration means is a matrix of the attention's own width.
        for layer in model.base_model.encoder.layer:
            layer.attention.output.dense = torch.nn.Linear(width, fields["hidden_size"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "act_fn" in name:
                parameter.uniform_(0.1, 0.5)
            elif parameter.dim() > 1:
                parameter.normal_(0.0, 1.5 * parameter[0].numel() ** -0.5)
            elif name.endswith("LayerNorm.weight"):
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0.0, 0.2)
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_(0.0, 1.0)
    return model.eval()


def random_inputs(
    fields: dict[str, Any], task: Task, batch: int, length: int, seed: int
) -> dict[str, torch.Tensor]:
    """Ids, a ragged mask with at least one valid token a row, and token types where read."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 3, length) if task is Task.MULTIPLE_CHOICE else (batch, length)
    lengths = torch.randint(1, length + 1, shape[:-1], generator=generator)
    lengths.view(-1)[0] = length
    inputs = {
        "input_ids": torch.randint(0, fields["vocab_size"], shape, generator=generator),
        "attention_mask": (torch.arange(length) < lengths[..., None]).long(),
    }
    if fields["type_vocab_size"] > 0:
        inputs["token_type_ids"] = torch.randint(
            0, fields["type_vocab_size"], shape, generator=generator
        )
    return inputs


def valid_outputs(
    task: Task, outputs: tuple[torch.Tensor, ...], mask: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """The outputs at valid positions: per-token outputs lose their padded rows."""
    if task in (Task.SEQUENCE_CLASSIFICATION, Task.MULTIPLE_CHOICE):
        return outputs
    return tuple(output[mask.bool()] for output in outputs)
