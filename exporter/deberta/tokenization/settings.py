"""Reading of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.

The order of precedence is that of transformers 4.x: with `added_tokens_decoder` in
`tokenizer_config.json` the two older files are not read; without it `special_tokens_map.json`
overrides the names in `tokenizer_config.json`, and the added tokens come from `added_tokens.json`
and `tokenizer.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exporter.deberta.tokenization.encoding import Kind, Side
from exporter.errors import InputError

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
FAST_FILE = "tokenizer.json"

# In the order in which transformers gives ids to those that the vocabulary lacks.
_DEFAULT_NAMES = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
REQUIRED_TOKENS = ("pad_token", "cls_token", "sep_token", "unk_token")
"""Names of the special tokens that the vocabulary itself must have."""

_ADDITIONAL_NAMES = ("additional_special_tokens", "extra_special_tokens")
_UNLIMITED = 10**20  # transformers writes int(1e30) for "no maximum"


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the raw text, before the vocabulary is consulted.

    `id` is None when the files name the token and give it no id. `has_flags` is False when no file
    gives the flags.
    """

    content: str
    id: int | None = None
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    has_flags: bool = True


@dataclass(frozen=True)
class TokenizerSettings:
    """What the JSON files of a folder say about its tokenizer.

    `special_tokens` maps `cls_token`, `sep_token`, ... to the token's text; `special_contents` are
    the distinct texts of those and of `additional_special_tokens`, in transformers' order.
    `added_tokens` has the tokens with an id first, in order of id.
    """

    special_tokens: Mapping[str, str]
    special_contents: tuple[str, ...]
    added_tokens: tuple[AddedToken, ...]
    do_lower_case: bool | None
    split_by_punct: bool | None
    model_max_length: int | None
    padding_side: Side
    truncation_side: Side


def _read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`, empty where there is no file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a JSON {type(value).__name__}, expected an object")
    return value


def read_settings(folder: Path, kind: Kind) -> TokenizerSettings:
    """The settings of the tokenizer in `folder`; every file is optional.

    Raises InputError naming the file and field when one is malformed.
    """
    path = folder / CONFIG_FILE
    config = _read_object(path)
    names = config
    if "added_tokens_decoder" not in config:
        names = config | _read_object(folder / SPECIAL_TOKENS_FILE)
    named = {
        name: _named_token(names.get(name) or default, name, path)
        for name, default in _DEFAULT_NAMES.items()
    }
    specials = [*named.values(), *_additional(names, path)]
    contents = tuple(dict.fromkeys(token.content for token in specials))
    if "added_tokens_decoder" in config:
        by_content = _from_decoder(config["added_tokens_decoder"], path)
    else:
        by_content = _from_added_tokens(folder, contents)
        # The fast tokenizer reads tokenizer.json, which is large, itself.
        if kind == "sentencepiece":
            by_content |= _from_fast_file(folder)
        # These files know no flags; those of a name that was written with its flags hold.
        for token in specials:
            if token.has_flags and token.content in by_content:
                by_content[token.content] = replace(token, id=by_content[token.content].id)
    for token in specials:
        by_content.setdefault(token.content, token)
    ordered = sorted(by_content.values(), key=lambda t: (t.id is None, t.id or 0))
    return TokenizerSettings(
        special_tokens={name: token.content for name, token in named.items()},
        special_contents=contents,
        added_tokens=tuple(ordered),
        do_lower_case=_option(config, "do_lower_case", path),
        split_by_punct=_option(config, "split_by_punct", path),
        model_max_length=_max_length(config, path),
        padding_side=_side(config, "padding_side", path),
        truncation_side=_side(config, "truncation_side", path),
    )


def _token(fields: Mapping[str, Any], name: str, path: Path, **known: Any) -> AddedToken:
    """A token of a serialised AddedToken; a flag that is absent has the `tokenizers` default."""
    content = fields.get("content")
    if not isinstance(content, str) or not content:
        raise InputError(f"{path}: {name} must be a token's text, got {content!r}")
    known.setdefault("special", bool(fields.get("special", False)))
    return AddedToken(
        content,
        normalized=bool(fields.get("normalized", not known["special"])),
        **{flag: bool(fields.get(flag, False)) for flag in ("lstrip", "rstrip", "single_word")},
        **known,
    )


def _named_token(value: object, name: str, path: Path) -> AddedToken:
    """A special token without an id, from its text or from a serialised AddedToken."""
    is_object = isinstance(value, dict)
    fields = value if isinstance(value, dict) else {"content": value}
    return _token(fields, name, path, special=True, has_flags=is_object)


def _additional(names: Mapping[str, Any], path: Path) -> list[AddedToken]:
    """`additional_special_tokens` of transformers 4 and `extra_special_tokens` of 5."""
    found: list[AddedToken] = []
    for name in _ADDITIONAL_NAMES:
        value = names.get(name) or []
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, list):
            raise InputError(f"{path}: {name} must be a list of tokens, got {value!r}")
        found += [_named_token(token, name, path) for token in value]
    return found


def _from_decoder(value: object, path: Path) -> dict[str, AddedToken]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: added_tokens_decoder must map ids to tokens, got {value!r}")
    tokens = (_added_token(fields, key, path) for key, fields in value.items())
    return {token.content: token for token in tokens}


def _from_added_tokens(folder: Path, contents: tuple[str, ...]) -> dict[str, AddedToken]:
    """The tokens of `added_tokens.json`, special where they are among `contents`."""
    path = folder / ADDED_TOKENS_FILE
    tokens = {}
    for content, index in _read_object(path).items():
        fields = {"content": content, "special": content in contents}
        tokens[content] = _added_token(fields, index, path, has_flags=False)
    return tokens


def _from_fast_file(folder: Path) -> dict[str, AddedToken]:
    """The `added_tokens` of `tokenizer.json`."""
    path = folder / FAST_FILE
    listed = _read_object(path).get("added_tokens") or []
    if not isinstance(listed, list):
        raise InputError(f"{path}: added_tokens must be a list, got {type(listed).__name__}")
    tokens = (
        _added_token(fields, fields.get("id") if isinstance(fields, dict) else None, path)
        for fields in listed
    )
    return {token.content: token for token in tokens}


def _added_token(fields: object, key: object, path: Path, has_flags: bool = True) -> AddedToken:
    """An added token from its JSON fields and its id, which may be a decimal string."""
    if not isinstance(fields, dict):
        raise InputError(f"{path}: added token {key!r} must be an object, got {fields!r}")
    try:
        index = int(key) if isinstance(key, (int, str)) and not isinstance(key, bool) else -1
    except ValueError:
        index = -1
    if index < 0:
        raise InputError(f"{path}: added token {fields!r} has the id {key!r}, expected an integer")
    return _token(fields, "an added token", path, id=index, has_flags=has_flags)


def _option(config: Mapping[str, Any], name: str, path: Path) -> bool | None:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{path}: {name} must be true or false, got {value!r}")
    return value


def _max_length(config: Mapping[str, Any], path: Path) -> int | None:
    value = config.get("model_max_length")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 1:
        raise InputError(f"{path}: model_max_length must be a positive integer, got {value!r}")
    return None if value > _UNLIMITED else int(value)


def _side(config: Mapping[str, Any], name: str, path: Path) -> Side:
    value: Side = config.get(name) or "right"
    if value not in ("right", "left"):
        raise InputError(f'{path}: {name} must be "right" or "left", got {value!r}')
    return value
