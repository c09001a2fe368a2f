"""Checkpoint folders with small random models, one for each head."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import make_model
from exporter.model.task import Task

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer"
VOCABULARY = 1616
"""Rows of the embeddings: a few more than the golden tokenizer has ids."""

ARCHITECTURES = {
    "base": "DebertaV2Model",
    "masked-lm": "DebertaV2ForMaskedLM",
    "sequence-classification": "DebertaV2ForSequenceClassification",
    "token-classification": "DebertaV2ForTokenClassification",
    "question-answering": "DebertaV2ForQuestionAnswering",
    "multiple-choice": "DebertaV2ForMultipleChoice",
}

CONFIG: dict[str, Any] = {
    "model_type": "deberta-v2",
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 160,
    "relative_attention": True,
    "position_buckets": 16,
    "max_relative_positions": -1,
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "pooler_hidden_size": 24,
    "type_vocab_size": 0,
    "pad_token_id": 0,
}


def write_checkpoint(
    folder: Path, task: str, *, tokenizer: bool = True, seed: int = 7, **changes: Any
) -> Path:
    """Write a checkpoint with random weights; their deviation of 0.08 is that of trained models."""
    folder.mkdir(parents=True)
    raw = {**CONFIG, "architectures": [ARCHITECTURES[task]], **changes}
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    config = DebertaConfig.from_dict(raw)
    generator = torch.Generator().manual_seed(seed)
    model = make_model(config, Task(task))
    state = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator) * 0.08
        state[name] = noise + 1.0 if name.endswith("LayerNorm.weight") else noise
    if config.tie_word_embeddings:
        state.pop("cls.predictions.decoder.weight", None)
    save_file(state, folder / "model.safetensors")
    if tokenizer:
        shutil.copy(GOLDEN / "spm.model", folder)
    return folder
