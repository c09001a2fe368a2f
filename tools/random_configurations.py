"""Random DeBERTa-v2 configurations over all variants of the model, and checkpoints of them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from exporter.deberta.configuration import ACTIVATIONS, DebertaConfig
from exporter.deberta.heads import make_model
from exporter.demo import checkpoint_folder
from exporter.model.task import ARCHITECTURES, Task


def random_config(seed: int) -> tuple[dict[str, Any], Task]:
    """Fields of config.json over all variants of the model, and a task they fit."""
    rng = random.Random(seed)
    tasks = list(ARCHITECTURES.values())
    task = tasks[seed % len(tasks)]
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


def write_random(
    folder: Path, fields: Mapping[str, Any], task: Task, deviation: float, seed: int
) -> None:
    """A checkpoint of `fields` with normal weights and the demo's tokenizer, in an empty folder."""
    (folder / "config.json").write_text(json.dumps(fields))
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in make_model(DebertaConfig.from_dict(dict(fields)), task).state_dict().items():
        noise = torch.randn(value.shape, generator=generator) * deviation
        state[name] = noise + 1.0 if name.endswith("LayerNorm.weight") else noise
    state.pop("cls.predictions.decoder.weight", None)  # tied to the embeddings
    save_file(state, folder / "model.safetensors")
    for pattern in ("*token*", "spm.model"):
        for path in checkpoint_folder().glob(pattern):
            shutil.copy(path, folder)
