"""`gliner_config.json` of a folder that the package `gliner` wrote: its encoder and its head.

Names and defaults must match `gliner.config` 0.2. A kind of model that is not supported is refused
by its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from calibration.json_values import field_of
from exporter.deberta.configuration import DebertaConfig, read_object
from exporter.deberta.model_folder import GLINER_CONFIG
from exporter.errors import InputError
from exporter.model.gliner_head import SPANS, SUBTOKEN_POOLINGS, TOKENS, GlinerHead

_SUPPORTED = (
    "supported are uni-encoder models that score spans (span_mode markerV0) or tokens "
    "(token_level) with a DeBERTa-v2, DeBERTa-v3 or mDeBERTa encoder"
)
_OTHER_KINDS = {
    "labels_encoder": "a bi-encoder, which encodes labels by a model of their own",
    "labels_decoder": "a model with a decoder, which writes labels",
    "relations_layer": "a model of relations",
    "decoder_config": "a streaming model, whose encoder is a decoder",
}
"""Fields that have a value in models of other kinds, and what they are."""
_OTHER_PARTS = {
    "fuse_layers": "mixes the layers by weights that depend on the padding of a batch",
    "span_encoder_config": "has another encoder between the words and the spans",
    "represent_spans": "scores spans besides tokens, which GLiNER's own ONNX has no output for",
    "precomputed_prompts_mode": "has its labels built in, and no prompt",
}
"""Fields that are set where a model has what is not supported, and what it does then."""
_UNUSED = "cross_fuser."
"""Begins the names of tensors that a uni-encoder has with `post_fusion_schema` and never reads."""


def read_config(folder: Path) -> DebertaConfig:
    """The configuration of a checkpoint folder: `gliner_config.json` where it is, or `config.json`.

    Raises InputError as `DebertaConfig.from_folder`, or for a GLiNER model that is not supported.
    """
    path = folder / GLINER_CONFIG
    if not path.exists():
        return DebertaConfig.from_folder(folder)
    raw = read_object(path)
    try:
        return gliner_config(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def gliner_config(raw: Mapping[str, Any]) -> DebertaConfig:
    """The encoder's configuration with the head as its `gliner`, from `gliner_config.json`.

    Raises InputError when a field is wrong, or the model is of a kind that is not supported.
    """
    _refuse_other_kinds(raw)
    encoder = raw.get("encoder_config")
    if not isinstance(encoder, dict):
        raise InputError(
            f"encoder_config is {encoder!r}; expected the configuration of the encoder: load the "
            "model with gliner and save it with save_pretrained"
        )
    try:
        config = DebertaConfig.from_dict({"model_type": "deberta-v2", **encoder})
    except InputError as error:
        raise InputError(f"encoder_config: {error}; {_SUPPORTED}") from None
    head = _head(raw, config)
    notes = (f"encoder_config {note}" for note in config.notes if not note.startswith("has fields"))
    return replace(config, gliner=head, notes=(*notes, *_notes(raw)))


def _head(raw: Mapping[str, Any], config: DebertaConfig) -> GlinerHead:
    hints = get_type_hints(GlinerHead)
    present = {key: value for key, value in raw.items() if value is not None}
    try:
        head = GlinerHead(
            **{
                item.name: field_of(present, item.name, hints[item.name])
                for item in fields(GlinerHead)
                if item.name in present
            }
        )
    except ValueError as error:
        raise InputError(str(error)) from None
    for name in ("hidden_size", "max_width", "max_len"):
        _require(head, name, getattr(head, name) >= 1, "at least 1")
    _require(head, "num_rnn_layers", head.num_rnn_layers < 65, "at most 64")
    _require(
        head, "subtoken_pooling", head.subtoken_pooling in SUBTOKEN_POOLINGS,
        f"one of {', '.join(SUBTOKEN_POOLINGS)}",
    )  # fmt: skip
    if head.num_rnn_layers > 0:
        even = "an even number, half of it for each direction of the LSTM"
        _require(head, "hidden_size", head.hidden_size % 2 == 0, even)
    if head.class_token_index < 0:
        raise InputError(
            f"class_token_index is {head.class_token_index}: the labels' token was never added; "
            "load the model with gliner and save it with save_pretrained"
        )
    is_id = head.class_token_index < config.vocab_size
    _require(head, "class_token_index", is_id, f"an id below vocab_size ({config.vocab_size})")
    for name in ("ent_token", "sep_token"):
        _require(head, name, bool(getattr(head, name).strip()), "a token")
    return head


def _require(head: GlinerHead, name: str, condition: bool, expected: str) -> None:
    if not condition:
        raise InputError(f"{name} is {getattr(head, name)!r}; expected {expected}")


def _refuse_other_kinds(raw: Mapping[str, Any]) -> None:
    """Refuse what another kind of GLiNER model has, by its name."""
    for name, what in _OTHER_KINDS.items():
        if raw.get(name) is not None:
            raise InputError(f"{name} is set: this is {what}; {_SUPPORTED}")
    mode = raw.get("span_mode", SPANS)
    if mode not in (SPANS, TOKENS):
        raise InputError(f"span_mode is {mode!r}; {_SUPPORTED}")
    for name, what in _OTHER_PARTS.items():
        if raw.get(name) and not (name == "represent_spans" and mode == SPANS):
            raise InputError(f"{name} is set: this model {what}; {_SUPPORTED}")
    splitter = raw.get("words_splitter_type") or "whitespace"
    if splitter != "whitespace":
        raise InputError(
            f"words_splitter_type is {splitter!r}: its words are those of another package; "
            "supported is whitespace"
        )


def _notes(raw: Mapping[str, Any]) -> Iterator[str]:
    if raw.get("post_fusion_schema"):
        yield f"post_fusion_schema is set; a uni-encoder does not read what it names ({_UNUSED}*)"
    sizes = (raw.get("vocab_size"), raw["encoder_config"].get("vocab_size"))
    if sizes[0] not in (None, -1, sizes[1]):
        yield f"vocab_size is {sizes[0]}, that of encoder_config {sizes[1]}, which is used"
