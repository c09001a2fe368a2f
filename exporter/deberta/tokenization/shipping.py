"""The tokenizer files of an artifact: those of the checkpoint, changed where a client that loads
them by itself would get other ids than the session.

transformers and the `tokenizers` library know no model, so what the session does in memory must
stand in the files: the special tokens around a text, no truncation or padding that training left,
padding on the right, the inputs that the graph has, the length that texts are cut to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exporter.deberta.configuration import read_object
from exporter.deberta.tokenization.settings import (
    FAST_FILE,
    SETTINGS_FILES,
    TokenizerSettings,
    read_settings,
)
from exporter.deberta.tokenization.tokenizer import Tokenizer

_CONFIG = SETTINGS_FILES[0]


def shipped_files(
    tokenizer: Tokenizer, inputs: tuple[str, ...], longest: int
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """JSON files that take the place of the checkpoint's, by name, and what they cannot say.

    Args:
        tokenizer: that of the checkpoint.
        inputs: names of the model's inputs.
        longest: tokens that texts are cut to.
    """
    folder = tokenizer.source_files[0].parent
    settings = read_settings(folder, tokenizer.kind)
    path = folder / _CONFIG
    config = read_object(path) if path.exists() else {}
    files = {_CONFIG: _config(config, settings, tokenizer, inputs, longest)}
    if tokenizer.kind == "fast":
        written = read_object(folder / FAST_FILE)
        if written != (fixed := {**written, **tokenizer.file_parts()}):
            files[FAST_FILE] = fixed
    return files, tuple(_left_unsaid(tokenizer, settings, folder))


def _config(
    config: dict[str, Any],
    settings: TokenizerSettings,
    tokenizer: Tokenizer,
    inputs: tuple[str, ...],
    longest: int,
) -> dict[str, Any]:
    """`tokenizer_config.json` for transformers."""
    changed = {
        **config,
        "model_input_names": list(inputs),
        "model_max_length": longest,
        "padding_side": "right",
    }
    for name, content in settings.special_tokens.items():
        given = config.get(name)
        if (given.get("content") if isinstance(given, dict) else given) != content:
            changed[name] = content
    if tokenizer.kind == "fast":
        # DebertaV2Tokenizer of transformers 5 takes the vocabulary alone out of tokenizer.json;
        # this one, in 4 and 5, takes the file as it is.
        changed["tokenizer_class"] = "PreTrainedTokenizerFast"
        for name in ("do_lower_case", "split_by_punct"):
            changed[name] = getattr(tokenizer, name)
    return changed


def _left_unsaid(tokenizer: Tokenizer, settings: TokenizerSettings, folder: Path) -> list[str]:
    notes = []
    if tokenizer.kind == "sentencepiece":
        notes.append(
            f"{folder}: the tokenizer is spm.model, which transformers 5 reads with a normalizer "
            "of its own: in rare texts its ids are others than the session's (docs/tokenizer.md)"
        )
    elif settings.split_special_tokens:
        notes.append(
            f"{folder}: split_special_tokens has no place in tokenizer.json: a client of the "
            "tokenizers library must set encode_special_tokens itself"
        )
    return notes


def vocabulary_of(path: Path) -> bytes:
    """What a vocabulary file says of pieces and ids, whatever else stands in it."""
    content = path.read_bytes()
    if path.name != FAST_FILE:
        return content
    try:
        return json.dumps(json.loads(content)["model"], sort_keys=True).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return content
