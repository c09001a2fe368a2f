"""Random GLiNER models and inputs, the same wherever they are made: numbers follow from a seed."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from exporter.deberta.gliner_configuration import gliner_config
from exporter.deberta.heads import make_model
from exporter.model.gliner_head import SUBTOKEN_POOLINGS, span_indices
from exporter.model.task import Task
from tools.random_configurations import random_config

CASES = 120
GOLDEN_CASES = range(0, CASES, 5)
THRESHOLD = 0.02
"""Low, so that spans overlap."""
LABELS = ("person", "city", "company", "product", "date", "amount")
TEXTS = [
    "Anna Gollin moved to Berlinton in May 2021.",
    "Dannes Inc sold its Perkan radio for $90, and Nina Ranel paid €15.",
    "naïve café — Ω, it's well-known_x: 3.14 (e.g. U.S.A.)!",
    "東京 は 日本 の 首都 です。",
    "One",
    " ",
    "Nothing happened, said Max, and nobody in Fort Vin believed it on 3 March 1999.",
    "Paul Paul Paul Laura Rosa in in Marl Marburg Group Group AG",
    "supercalifragilisticexpialidocious" * 3 + " Emma",
]
"""What the entities of the tiny model are compared on."""
ENT, SEP = 7, 8
"""Ids of the labels' token and of the one behind the prompt."""


def random_gliner(seed: int) -> dict[str, Any]:
    """Fields of `gliner_config.json` over all variants that are supported."""
    rng = random.Random(f"gliner {seed}")
    encoder, _ = random_config(seed)
    encoder.pop("attention_head_size", None)  # transformers cannot run it, see random_models
    encoder.pop("problem_type")
    if encoder["hidden_act"] == "xielu":
        encoder["hidden_act"] = "gelu"  # its buffers are no parameters
    width = rng.choice([encoder["hidden_size"], 8, 12])
    width += width % 2
    return {
        "model_type": "gliner",
        "encoder_config": {**encoder, "model_type": "deberta-v2"},
        "hidden_size": width,
        "span_mode": ("markerV0", "token_level")[seed % 2],
        "max_width": rng.choice([1, 2, 5, 12]),
        "max_len": 384,
        "num_rnn_layers": rng.choice([0, 1, 1, 2]),
        "subtoken_pooling": SUBTOKEN_POOLINGS[seed // 2 % 4],
        "embed_ent_token": rng.random() < 0.7,
        "class_token_index": ENT,
        "vocab_size": encoder["vocab_size"],
        "dropout": 0.3,
        "ent_token": "<<ENT>>",
        "sep_token": "<<SEP>>",
    }


def weight(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """A tensor of a model: large enough that every path shows."""
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = generator.standard_normal(shape).astype(np.float32)
    if "act_fn" in name:
        return np.abs(values) * 0.1 + 0.1
    if name.endswith("LayerNorm.weight"):
        return 1.0 + 0.2 * values
    if "embeddings.weight" in name or len(shape) < 2:
        return values * (1.0 if len(shape) > 1 else 0.2)
    return values * np.float32(1.5 * np.prod(shape[1:]) ** -0.5)


def random_feeds(raw: Mapping[str, Any], seed: int) -> dict[str, NDArray[Any]]:
    """Ragged rows of a prompt and words: one word, no label, words without a token among them."""
    rng = random.Random(f"feeds {seed}")
    head = gliner_config(raw).gliner
    assert head is not None
    most = raw["encoder_config"]["max_position_embeddings"]
    made = [_row(rng, head.subtoken_pooling, most, seed + index) for index in range(1 + seed % 3)]
    length = max(len(ids) for ids, *_ in made)
    words = max(count for *_, count in made)
    feeds: dict[str, NDArray[Any]] = {
        name: np.zeros((len(made), length), np.int64)
        for name in ("input_ids", "attention_mask", "words_mask")
    }
    feeds["input_ids"][:] = raw["encoder_config"]["pad_token_id"]
    for index, (ids, numbers, _) in enumerate(made):
        feeds["input_ids"][index, : len(ids)] = ids
        feeds["attention_mask"][index, : len(ids)] = 1
        feeds["words_mask"][index, : len(ids)] = numbers
    counts = np.array([count for *_, count in made], np.int64)
    feeds["text_lengths"] = counts[:, None]
    if head.scores_spans:
        spans = span_indices(head, words)
        feeds["span_mask"] = spans[None, :, 1] < counts[:, None]
        # Padding of shorter texts is 0, as in GLiNER; what reaches beyond the end is not.
        inside = np.arange(len(spans)) < head.max_width * counts[:, None]
        feeds["span_idx"] = np.where(inside[..., None], spans, 0)
    return {name: feeds[name] for name in head.inputs}


def _row(
    rng: random.Random, pooling: str, most: int, kind: int
) -> tuple[list[int], list[int], int]:
    """Ids, the words that tokens count for, and the number of words."""
    ids, numbers = [1], [0]
    labels = 0 if kind % 11 == 5 else rng.choice([1, 2, 3, 6])
    for _ in range(labels):
        parts = [ENT, *(rng.randrange(9, 50) for _ in range(rng.choice([1, 2])))]
        ids, numbers = ids + parts, numbers + [0] * len(parts)
    ids, numbers = [*ids, SEP], [*numbers, 0]
    words = 1 if kind % 7 == 3 else rng.choice([2, 3, 9])
    for word in range(1, words + 1):
        size = rng.choice([1, 1, 2, 3])
        if word == words > 2 and kind % 5 == 1:
            continue  # cut off with the window
        ids += [rng.randrange(9, 50) for _ in range(size)]
        marks = {"first": [word] + [0] * (size - 1), "last": [0] * (size - 1) + [word]}
        numbers += marks.get(pooling, [word] * size)
    room = most - 1
    return [*ids[:room], 2], [*numbers[:room], 0], words


def write_gliner(folder: Path, raw: Mapping[str, Any], seed: int) -> Path:
    """A folder as `gliner` writes it, its weights without that package, in `folder`.

    The names of the head's tensors are those of `gliner`, which its module has here in parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gliner_config.json").write_text(json.dumps(raw))
    config = gliner_config(raw)
    state = {}
    for name, value in make_model(config, Task.GLINER).state_dict().items():
        if (stored := stored_name(name)) is not None:
            state[stored] = tuple(value.shape)
    head = config.gliner
    assert head is not None
    width = head.hidden_size
    if head.scores_spans:
        path = "span_rep_layer.span_rep_layer.out_project."
        state |= _linear(f"{path}0", 4 * width, 2 * width) | _linear(f"{path}3", width, 4 * width)
    else:
        state |= _linear("scorer.out_mlp.0", 4 * width, 3 * width)
        state |= _linear("scorer.out_mlp.3", 3, 4 * width)
    tensors = {name: torch.from_numpy(weight(name, shape, seed)) for name, shape in state.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def stored_name(name: str) -> str | None:
    """What `gliner` calls a tensor of ours; None of a part of one."""
    top, _, rest = name.partition(".")
    if top == "span_scorer":
        inner, _, last = rest.partition(".")
        if inner == "prompt":
            return f"prompt_rep_layer.{last}"
        return f"span_rep_layer.span_rep_layer.{rest}" if inner.startswith("project_") else None
    if top == "token_scorer":
        return f"scorer.{rest}" if rest.startswith("proj_") else None
    return {
        "deberta": f"token_rep_layer.bert_layer.model.{rest}",
        "projection": f"token_rep_layer.projection.{rest}",
    }.get(top, name)
