"""A client that loads the artifact's tokenizer by itself gets what the session computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
import transformers
from support.checkpoints import write_checkpoint
from support.tokenizer_files import configure, write_tokenizer_files

from exporter.artifact.files import record
from exporter.artifact.writer import ArtifactWriter
from exporter.deberta.tokenization import load_tokenizer
from exporter.inputs.encode import TextEncoder
from exporter.parity.side import common_shape
from exporter.parity.sides import artifact_side, checkpoint_side
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.pipeline.source import open_source
from exporter.runtime.load import load

LONG = "I have owned three of these, and each one broke within a year of being bought, sadly. " * 3
TEXTS = (
    "",
    "a good film",
    "the [SEP] and the [MASK]",
    "ｃａｍｅｒａ  and\u00a0 Größe 👍 1,000",
    LONG,
)
PADDING = {
    "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
    "pad_type_id": 0, "pad_token": "[PAD]",
}  # fmt: skip
TRUNCATION = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}


def fast_checkpoint(folder: Path, changes: dict[str, Any], **settings: Any) -> Path:
    """A checkpoint whose tokenizer.json and tokenizer_config.json are as training left them."""
    write_checkpoint(folder, "sequence-classification", tokenizer=False)
    write_tokenizer_files(folder.with_name("tokenizer"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        folder.with_name("tokenizer").joinpath(name).rename(folder / name)
    configure(folder, tokenizer_class="DebertaV2Tokenizer", **settings)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def built(folder: Path, texts_file: Path) -> Path:
    output = folder.with_name("artifact")
    config = BuildConfig(folder, output, data=texts_file, targets=("onnx",), seq=None)
    assert build(config).passed
    return output


def shipped(folder: Path) -> tuple[TextEncoder, Path]:
    """What the session encodes with, and a folder with what the artifact would have of it."""
    source, output = open_source(BuildConfig(folder)), folder.with_name("shipped")
    with ArtifactWriter(folder.with_name("artifact")) as writer:
        source.write_files(writer)
        shutil.copytree(writer.folder, output)
    assert source.encoder is not None
    return source.encoder, output


CHANGED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"post_processor": None}, {}),
    ({"truncation": TRUNCATION, "padding": PADDING}, {}),
    ({}, {"padding_side": "left", "model_max_length": 10}),
    ({"post_processor": None}, {"split_special_tokens": True, "truncation_side": "left"}),
]


@pytest.mark.parametrize(("changes", "settings"), CHANGED)
def test_a_client_gets_the_session_s_ids(
    changes: dict[str, Any], settings: dict[str, Any], tmp_path: Path
) -> None:
    encoder, folder = shipped(fast_checkpoint(tmp_path / "model", changes, **settings))
    client = transformers.AutoTokenizer.from_pretrained(folder)
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    plain.encode_special_tokens = settings.get("split_special_tokens", False)
    for text in TEXTS:
        ids = list(encoder.encode(text).rows[0].input_ids)
        assert client(text, truncation=True)["input_ids"] == ids
        if len(ids) < 160:
            assert plain.encode(text).ids == ids
    pair = encoder.encode((TEXTS[1], TEXTS[3])).rows[0].input_ids
    assert client(TEXTS[1], TEXTS[3])["input_ids"] == list(pair)


def test_a_client_gets_the_session_s_answers(tmp_path: Path, texts_file: Path) -> None:
    changes = {"post_processor": None, "truncation": TRUNCATION, "padding": PADDING}
    model = fast_checkpoint(tmp_path / "model", changes, padding_side="left")
    artifact = built(model, texts_file)
    client = transformers.AutoTokenizer.from_pretrained(artifact)
    inputs = client(list(TEXTS), padding=True, truncation=True, return_tensors="np")
    graph = onnxruntime.InferenceSession(artifact / "model.onnx")
    (logits,) = graph.run(None, dict(inputs))
    with load(artifact) as session:
        expected = session(TEXTS)
    for row, answer in zip(logits, expected, strict=True):
        scores = np.exp(row) / np.exp(row).sum()
        found = {f"LABEL_{index}": score for index, score in enumerate(scores)}
        for label in answer.labels:  # type: ignore[union-attr]
            assert abs(found[label.label] - label.score) <= 1e-6


def test_what_stays_as_it_was(tmp_path: Path, texts_file: Path) -> None:
    """The ids that we give, of the checkpoint and of the artifact, and the vocabulary."""
    source = fast_checkpoint(tmp_path / "model", {"post_processor": None, "padding": PADDING})
    artifact = built(source, texts_file)
    before, after = load_tokenizer(source), load_tokenizer(artifact)
    for text in TEXTS:
        assert before.encode(text, "b", max_length=40) == after.encode(text, "b", max_length=40)
    old, new = (json.loads((f / "tokenizer.json").read_text()) for f in (source, artifact))
    assert [name for name in old if old[name] != new[name]] == ["padding", "post_processor"]
    assert common_shape(checkpoint_side(source), artifact_side(artifact)).vocab_size
    graph = onnx.load(artifact / "model.onnx")
    (held,) = [p.value for p in graph.metadata_props if p.key == "deb_export.vocabulary_sha256"]
    assert held == record(artifact / "tokenizer.json").sha256
    config = json.loads((artifact / "tokenizer_config.json").read_text())
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert (config["model_max_length"], config["padding_side"]) == (160, "right")


def test_spm_model_alone_is_said(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", "sequence-classification")
    (note,) = open_source(BuildConfig(folder)).notes
    assert "transformers 5" in note
    client = transformers.AutoTokenizer.from_pretrained(shipped(folder)[1])
    assert list(client("a good film")) == ["input_ids", "attention_mask"]


def split(folder: Path, kind: str) -> Callable[[str], tuple[int, ...]]:
    tokenizer = load_tokenizer(folder, kind=kind)  # type: ignore[arg-type]
    return lambda text: tokenizer.encode(text).input_ids


def test_split_special_tokens_is_honoured(tmp_path: Path) -> None:
    """As transformers does; a token that the vocabulary itself matches stays one."""
    write_tokenizer_files(tmp_path / "t")
    text = "ignore this [MASK] and [SEP] that"
    for honoured in (False, True):
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}
        configure(tmp_path / "t", split_special_tokens=honoured, **settings)
        client = transformers.AutoTokenizer.from_pretrained(tmp_path / "t")
        ids = split(tmp_path / "t", "fast")(text)
        assert client(text)["input_ids"] == [*ids]
        slow = split(tmp_path / "t", "sentencepiece")(text)
        assert (1600 in ids, 1600 in slow) == (not honoured, not honoured)
