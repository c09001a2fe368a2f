"""Random DeBERTa-v2 configurations and models of `transformers`, the reference of many tests."""

from __future__ import annotations

import random
from typing import Any

import torch
import transformers

from exporter.deberta.configuration import ACTIVATIONS
from exporter.model.task import Task

HF_CLASSES = {
    Task.BASE: transformers.DebertaV2Model,
    Task.MASKED_LM: transformers.DebertaV2ForMaskedLM,
    Task.SEQUENCE_CLASSIFICATION: transformers.DebertaV2ForSequenceClassification,
    Task.TOKEN_CLASSIFICATION: transformers.DebertaV2ForTokenClassification,
    Task.QUESTION_ANSWERING: transformers.DebertaV2ForQuestionAnswering,
    Task.MULTIPLE_CHOICE: transformers.DebertaV2ForMultipleChoice,
}


def random_config(seed: int) -> tuple[dict[str, Any], Task]:
    """Fields of config.json over all variants of the model, and a task they fit."""
    rng = random.Random(seed)
    task = list(Task)[seed % len(Task)]
    heads = rng.choice([1, 2, 3, 4])
    head_size = rng.choice([10, 5, 8, 16]) if heads > 1 else rng.choice([10, 16])
    fields: dict[str, Any] = {
        "vocab_size": rng.choice([53, 100, 131]),
        "hidden_size": heads * head_size,
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "num_attention_heads": heads,
        "intermediate_size": rng.choice([17, 32, 64]),
        "hidden_act": ACTIVATIONS[seed % len(ACTIVATIONS)],
        "max_position_embeddings": rng.choice([32, 128, 512]),
        "type_vocab_size": rng.choice([0, 0, 2, 3]),
        "layer_norm_eps": rng.choice([1e-7, 1e-5]),
        "pad_token_id": rng.choice([0, 1]),
        "relative_attention": rng.random() < 0.85,
        "position_biased_input": rng.random() < 0.4,
        "pos_att_type": rng.choice([None, [], "c2p", ["p2c"], "p2c|c2p", ["c2p", "p2c"]]),
        "share_att_key": rng.random() < 0.5,
        "norm_rel_ebd": rng.choice(["none", "layer_norm"]),
        "max_relative_positions": rng.choice([-1, 20, 64, 512]),
        "position_buckets": rng.choice([-1, 4, 7, 16, 32]),
        "pooler_hidden_act": rng.choice(ACTIVATIONS),
        "num_labels": 2 if task is Task.QUESTION_ANSWERING else rng.choice([1, 2, 5]),
        "legacy": rng.random() < 0.5,
        "problem_type": None,
    }
    if rng.random() < 0.4:
        fields["conv_kernel_size"] = rng.choice([1, 3, 5])
        fields["conv_groups"] = rng.choice([1, heads])
        if rng.random() < 0.7:
            fields["conv_act"] = rng.choice(ACTIVATIONS)
    if rng.random() < 0.3 and (task is not Task.MASKED_LM or fields["legacy"]):
        fields["embedding_size"] = rng.choice([12, 24])
    if rng.random() < 0.2:
        fields["attention_head_size"] = rng.choice([4, 12])
    return fields, task


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
