"""What is read of `gliner_config.json`, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support.gliner_models import random_gliner, write_gliner

from exporter.deberta.checkpoint import open_checkpoint
from exporter.deberta.gliner_configuration import gliner_config
from exporter.errors import InputError
from exporter.model.task import Task


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels_encoder": "some/encoder"}, "bi-encoder.*supported are"),
        ({"labels_decoder": "gpt2"}, "decoder.*supported are"),
        ({"relations_layer": "dot"}, "relations.*supported are"),
        ({"decoder_config": {}}, "streaming.*supported are"),
        ({"span_mode": "markerV1"}, "span_mode is 'markerV1'; supported"),
        ({"fuse_layers": True}, "fuse_layers is set.*padding"),
        ({"span_encoder_config": {"model_type": "rnn"}}, "span_encoder_config is set"),
        ({"represent_spans": True, "span_mode": "token_level"}, "represent_spans is set"),
        ({"precomputed_prompts_mode": True}, "precomputed_prompts_mode is set"),
        ({"words_splitter_type": "jieba"}, "words_splitter_type is 'jieba'"),
        ({"encoder_config": None}, "encoder_config is None"),
        ({"encoder_config": {"model_type": "modernbert"}}, "'modernbert'.*DeBERTa-v2, DeBERTa-v3"),
        ({"class_token_index": -1}, "class_token_index is -1"),
        ({"class_token_index": 10**6}, "class_token_index is 1000000; expected an id below"),
        ({"subtoken_pooling": "sum"}, "subtoken_pooling is 'sum'; expected one of first"),
        ({"max_width": 0}, "max_width is 0"),
        ({"max_width": "12"}, "max_width is '12'; expected a whole number"),
        ({"hidden_size": 9, "num_rnn_layers": 1}, "hidden_size is 9; expected an even"),
        ({"ent_token": " "}, "ent_token is ' '"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gliner_config({**random_gliner(0), **changes})


def test_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "gliner_config.json").write_text("{")
    with pytest.raises(InputError, match=r"gliner_config\.json: is not valid JSON"):
        open_checkpoint(tmp_path)
    (tmp_path / "gliner_config.json").write_text('{"labels_encoder": "x"}')
    with pytest.raises(InputError, match=r"gliner_config\.json: labels_encoder"):
        open_checkpoint(tmp_path)


def test_what_the_weights_lack_is_named(tmp_path: Path) -> None:
    folder = write_gliner(tmp_path, {**random_gliner(0), "num_rnn_layers": 1}, 0)
    state = load_file(folder / "model.safetensors")
    save_file(
        {f"wrapper.{name}": value for name, value in state.items()}, folder / "model.safetensors"
    )
    checkpoint = open_checkpoint(folder)
    assert "'wrapper.'" in " ".join(checkpoint.notes)
    del state["span_rep_layer.span_rep_layer.out_project.0.weight"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: span_scorer\.end\.weight"):
        open_checkpoint(folder)
    save_file({"a": state["rnn.lstm.bias_hh_l0"]}, folder / "model.safetensors")
    with pytest.raises(InputError, match="no tensor token_rep_layer"):
        open_checkpoint(folder)


def test_a_task_is_no_choice(tmp_path: Path) -> None:
    folder = write_gliner(tmp_path, random_gliner(0), 0)
    assert open_checkpoint(folder, Task.GLINER).task is Task.GLINER
    with pytest.raises(InputError, match="is a GLiNER model"):
        open_checkpoint(folder, Task.BASE)


def test_the_configuration_survives_its_file() -> None:
    config = gliner_config(random_gliner(3))
    raw = json.loads(json.dumps(config.to_dict()))
    again = type(config).from_dict(raw)
    assert again.gliner == config.gliner is not None
    assert again.to_dict() == config.to_dict()
