"""Validation of config.json: every wrong value names its field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError

GOOD: dict[str, Any] = {
    "model_type": "deberta-v2",
    "vocab_size": 100,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "relative_attention": True,
    "position_buckets": 8,
    "max_relative_positions": 32,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("vocab_size", "100"),
        ("vocab_size", 10.5),
        ("hidden_size", True),
        ("hidden_size", 30),
        ("num_hidden_layers", 0),
        ("num_attention_heads", -1),
        ("intermediate_size", 0),
        ("hidden_act", "swishy"),
        ("conv_act", 3),
        ("pooler_hidden_act", "Tanh"),
        ("max_position_embeddings", 0),
        ("type_vocab_size", -1),
        ("layer_norm_eps", "small"),
        ("layer_norm_eps", -1e-7),
        ("layer_norm_eps", float("inf")),
        ("layer_norm_eps", float("nan")),
        ("pad_token_id", 100),
        ("relative_attention", "yes"),
        ("position_buckets", 1),
        ("position_buckets", 64),
        ("position_buckets", 2.0),
        ("pos_att_type", "c2q"),
        ("pos_att_type", 7),
        ("pos_att_type", ["c2p", 7]),
        ("norm_rel_ebd", "batch_norm"),
        ("norm_rel_ebd", 1),
        ("attention_head_size", 0),
        ("embedding_size", 0),
        ("pooler_hidden_size", 16),
        ("conv_kernel_size", 2),
        ("id2label", {"0": "a", "2": "b"}),
        ("id2label", {"zero": "a"}),
        ("id2label", []),
        ("id2label", {}),
        ("num_labels", 0),
        ("num_labels", "two"),
        ("architectures", "DebertaV2Model"),
        ("model_type", "bert"),
        ("model_type", "deberta"),
    ],
)
def test_a_wrong_value_names_its_field(field: str, value: object) -> None:
    name = "id2label" if field == "id2label" else field
    with pytest.raises(InputError, match=name):
        DebertaConfig.from_dict({**GOOD, field: value})


def test_conv_groups_divides_hidden_size() -> None:
    with pytest.raises(InputError, match="conv_groups"):
        DebertaConfig.from_dict({**GOOD, "conv_kernel_size": 3, "conv_groups": 5})


def test_null_counts_as_absent() -> None:
    fields = dict.fromkeys(("position_buckets", "attention_head_size", "pos_att_type"))
    config = DebertaConfig.from_dict({**GOOD, **fields})
    assert (config.position_buckets, config.head_size, config.pos_att_type) == (-1, 8, ())


def test_unknown_fields_are_kept() -> None:
    config = DebertaConfig.from_dict({**GOOD, "surprise": [1, 2], "use_cache": True})
    assert config.unknown == {"surprise": [1, 2]}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("p2c|c2p", ("p2c", "c2p")),
        ("C2P | P2C", ("c2p", "p2c")),
        (["c2p"], ("c2p",)),
        ("none", ()),
        ("", ()),
        ([], ()),
    ],
)
def test_position_terms(written: object, read: tuple[str, ...]) -> None:
    assert DebertaConfig.from_dict({**GOOD, "pos_att_type": written}).pos_att_type == read


def test_defaults_are_those_of_transformers() -> None:
    ours = DebertaConfig.from_dict({"model_type": "deberta-v2"})
    theirs = transformers.DebertaV2Config()
    for name in (
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act "
        "max_position_embeddings type_vocab_size layer_norm_eps pad_token_id relative_attention "
        "max_relative_positions position_biased_input pooler_hidden_act legacy "
        "tie_word_embeddings num_labels"
    ).split():
        assert getattr(ours, name) == getattr(theirs, name), name


def test_what_transformers_saves_has_no_unknown_fields(tmp_path: Path) -> None:
    transformers.DebertaV2Config(id2label={0: "no", 1: "yes", 2: "maybe"}).save_pretrained(tmp_path)
    config = DebertaConfig.from_folder(tmp_path)
    assert not config.unknown
    assert dict(config.id2label) == {0: "no", 1: "yes", 2: "maybe"}


def test_to_dict_reads_back() -> None:
    config = DebertaConfig.from_dict(
        {**GOOD, "pos_att_type": "c2p", "id2label": {"0": "x"}, "norm_rel_ebd": "layer_norm"}
    )
    written = json.loads(json.dumps(config.to_dict()))
    assert DebertaConfig.from_dict(written) == config


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model_type": "deberta-v2"', "\0"])
def test_a_file_that_is_no_json_object(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json"):
        DebertaConfig.from_folder(tmp_path)


def test_a_missing_folder_and_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        DebertaConfig.from_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no config\.json"):
        DebertaConfig.from_folder(tmp_path)
