"""Train the tiny GLiNER and write it as `gliner` does: python -m tools.gliner_training FOLDER.

Three minutes on two cores. The tokenizer is the demo's, with the tokens that GLiNER adds.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from exporter.deberta.gliner_configuration import gliner_config
from exporter.deberta.gliner_modeling import Gliner
from exporter.demo import checkpoint_folder
from exporter.inputs.encode import Example, collate
from exporter.inputs.gliner_texts import GlinerEncoder
from exporter.model.gliner_head import GlinerHead
from exporter.model.task import Task
from exporter.runtime.load import text_encoder
from tools.gliner_training.sentences import LABELS, Sentence, sentence

STEPS, BATCH, RATE, SEED = 900, 16, 4e-3, 16
ADDED = ("[FLERT]", "<<ENT>>", "<<SEP>>")


def configuration(vocabulary: int) -> dict[str, Any]:
    """`gliner_config.json`; `vocabulary` is the demo's number of ids."""
    encoder = json.loads((checkpoint_folder() / "config.json").read_text())
    kept = "hidden_act norm_rel_ebd pos_att_type position_biased_input relative_attention".split()
    kept += "share_att_key layer_norm_eps max_position_embeddings type_vocab_size".split()
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2}
    sizes |= {"intermediate_size": 128, "position_buckets": 32, "max_relative_positions": 512}
    sizes |= {"vocab_size": vocabulary + len(ADDED), "pad_token_id": 0}
    return {
        "model_type": "gliner_uni_encoder_span",
        "model_name": "tiny",
        "encoder_config": {"model_type": "deberta-v2"} | {k: encoder[k] for k in kept} | sizes,
        "hidden_size": 48,
        "span_mode": "markerV0",
        "max_width": 4,
        "max_len": 64,
        "num_rnn_layers": 1,
        "subtoken_pooling": "first",
        "dropout": 0.1,
        "vocab_size": vocabulary + len(ADDED),
        "class_token_index": vocabulary + ADDED.index("<<ENT>>"),
        "ent_token": "<<ENT>>",
        "sep_token": "<<SEP>>",
    }


def write_tokenizer(folder: Path) -> int:
    """The demo's tokenizer with the tokens that GLiNER adds; gives the demo's number of ids."""
    tokenizer = json.loads((checkpoint_folder() / "tokenizer.json").read_text())
    count: int = 1 + max(token["id"] for token in tokenizer["added_tokens"])
    for index, content in enumerate(ADDED, count):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        token = {"id": index, "content": content, **flags, "special": True}
        tokenizer["added_tokens"].append(token)
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text)
    settings = (checkpoint_folder() / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(settings)
    return count


def targets(
    head: GlinerHead, made: list[tuple[Sentence, Example]], shape: torch.Size
) -> torch.Tensor:
    """1 at the spans that are entities, `(B, W, K, C)`."""
    wanted = torch.zeros(shape)
    for row, (given, example) in enumerate(made):
        starts = {start: word for word, (start, _) in enumerate(example.words)}
        ends = {end: word for word, (_, end) in enumerate(example.words)}
        for start, end, label in given.entities:
            if label in example.second:
                first, last = starts[start], ends[end]
                if last - first < head.max_width:
                    wanted[row, first, last - first, example.second.index(label)] = 1.0
    return wanted


def asked(rng: random.Random) -> tuple[str, ...]:
    """Some of the labels in any order."""
    return tuple(rng.sample(LABELS, rng.randint(2, len(LABELS))))


def train(model: Gliner, encoder: GlinerEncoder, raw: dict[str, Any]) -> None:
    """Teach the model to find the entities of the sentences."""
    rng = random.Random(SEED)
    head, shape = encoder.head, gliner_config(raw).shape(Task.GLINER)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for step in range(STEPS):
        given = [sentence(rng) for _ in range(BATCH)]
        made = [(item, encoder.encode((item.text, asked(rng)))) for item in given]
        feeds = collate([example for _, example in made], shape)
        (logits,) = model(*(torch.from_numpy(feeds[name]) for name in head.inputs))
        valid = torch.from_numpy(head.valid(feeds))
        wanted = targets(head, made, logits.shape)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[valid], wanted[valid], reduction="sum"
        )
        optimizer.zero_grad()
        (loss / BATCH).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item() / BATCH:.4f}", flush=True)


def stored(model: Gliner) -> dict[str, torch.Tensor]:
    """The tensors under the names of `gliner`, whose layers have our parts side by side."""
    own = {name: value.detach() for name, value in model.state_dict().items()}
    names = ("start.weight", "start.bias", "end.weight", "label.weight", "label_bias.weight")
    part = {name: own.pop(f"span_scorer.{name}") for name in names}
    prefixes = {
        "deberta.": "token_rep_layer.bert_layer.model.",
        "projection.": "token_rep_layer.projection.",
        "span_scorer.prompt.": "prompt_rep_layer.",
        "span_scorer.": "span_rep_layer.span_rep_layer.",
    }
    found = {}
    for name, value in own.items():
        before = next((old for old in prefixes if name.startswith(old)), "")
        found[prefixes.get(before, "") + name.removeprefix(before)] = value
    path = "span_rep_layer.span_rep_layer.out_project"
    found[f"{path}.0.weight"] = torch.cat([part["start.weight"], part["end.weight"]], 1)
    found[f"{path}.0.bias"] = part["start.bias"]
    found[f"{path}.3.weight"] = part["label.weight"].T
    found[f"{path}.3.bias"] = part["label_bias.weight"][0]
    return {name: value.contiguous().clone() for name, value in found.items()}


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model is written")
    folder: Path = parser.parse_args().folder
    torch.manual_seed(SEED)
    folder.mkdir(parents=True, exist_ok=True)
    raw = configuration(write_tokenizer(folder))
    (folder / "gliner_config.json").write_text(json.dumps(raw, indent=2) + "\n")
    config = gliner_config(raw)
    encoder = text_encoder(folder, Task.GLINER, 256, config.gliner)
    assert isinstance(encoder, GlinerEncoder)
    model = Gliner(config)
    for name, parameter in model.named_parameters():
        if "embeddings" in name and parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    train(model, encoder, raw)
    save_file(stored(model), folder / "model.safetensors")


if __name__ == "__main__":
    main()
