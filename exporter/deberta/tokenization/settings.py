"""Reading of `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.

The order of precedence is that of transformers 4.x: with `added_tokens_decoder` in
`tokenizer_config.json` the two older files are not read; without it `special_tokens_map.json`
overrides the names in `tokenizer_config.json`, and the added tokens come from `added_tokens.json`
and `tokenizer.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from exporter.deberta.configuration import read_object
from exporter.deberta.tokenization.encoding import Kind, Side
from exporter.errors import InputError

SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_CONFIG, _NAMES, _ADDED = SETTINGS_FILES
FAST_FILE = "tokenizer.json"

# In the order in which transformers gives ids to those that the vocabulary lacks.
_DEFAULT_NAMES = {
    "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]", "sep_token": "[SEP]",
    "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
REQUIRED_TOKENS = ("pad_token", "cls_token", "sep_token", "unk_token")
"""Names of the special tokens that the vocabulary itself must have."""

_UNLIMITED = 10**20  # transformers writes int(1e30) for "no maximum"


@dataclass(frozen=True)
class AddedToken:
    """A token that is matched in the raw text, before the vocabulary is consulted.

    `id` is None when the files name the token and give it no id. `has_flags` is False when no file
    gives the flags. `file` is the one that gives the id.
    """

    content: str
    id: int | None = None
    special: bool = True
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    has_flags: bool = True
    file: str = _CONFIG


@dataclass(frozen=True)
class TokenizerSettings:
    """What the JSON files of a folder say about its tokenizer.

    `special_tokens` maps `cls_token`, `sep_token`, ... to the token's text; `special_contents` are
    the distinct texts of those and of `additional_special_tokens`, in transformers' order.
    `added_tokens` has the tokens with an id first, in order of id. `split_special_tokens` says that
    a special token's name in a text is text.
    """

    special_tokens: Mapping[str, str]
    special_contents: tuple[str, ...]
    added_tokens: tuple[AddedToken, ...]
    do_lower_case: bool | None
    split_by_punct: bool | None
    model_max_length: int | None
    truncation_side: Side
    split_special_tokens: bool


def read_settings(folder: Path, kind: Kind) -> TokenizerSettings:
    """The settings of the tokenizer in `folder`; every file is optional.

    Raises InputError naming the file and field when one is malformed.
    """
    path = folder / _CONFIG
    config = _optional(path)
    names = config
    if "added_tokens_decoder" not in config:
        names = config | _optional(folder / _NAMES)
    named = {
        name: _named_token(names.get(name) or default, name, path)
        for name, default in _DEFAULT_NAMES.items()
    }
    specials = [*named.values(), *_additional(names, path)]
    contents = tuple(dict.fromkeys(token.content for token in specials))
    if "added_tokens_decoder" in config:
        decoder = config["added_tokens_decoder"]
        if not isinstance(decoder, dict):
            raise InputError(
                f"{path}: added_tokens_decoder must map ids to tokens, got {decoder!r}"
            )
        numbered = [_added_token(item, key, path) for key, item in decoder.items()]
    else:
        numbered = _from_older_files(folder, contents, kind)
    by_content = {token.content: token for token in numbered}
    if "added_tokens_decoder" not in config:
        # These files know no flags; those of a name that was written with its flags hold.
        for token in specials:
            if token.has_flags and token.content in by_content:
                numbered_one = by_content[token.content]
                kept = replace(token, id=numbered_one.id, file=numbered_one.file)
                by_content[token.content] = kept
    for token in specials:
        by_content.setdefault(token.content, token)
    ordered = sorted(by_content.values(), key=lambda t: (t.id is None, t.id or 0))
    limit = config.get("model_max_length")
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    if limit is not None and not (is_number and limit >= 1):
        raise InputError(f"{path}: model_max_length must be a positive integer, got {limit!r}")
    side: Side = config.get("truncation_side") or "right"
    if side not in ("right", "left"):
        raise InputError(f'{path}: truncation_side must be "right" or "left", got {side!r}')
    switches = ("do_lower_case", "split_by_punct", "split_special_tokens")
    options = {name: config.get(name) for name in switches}
    for name, value in options.items():
        if not isinstance(value, (bool, NoneType)):
            raise InputError(f"{path}: {name} must be true or false, got {value!r}")
    return TokenizerSettings(
        special_tokens={name: token.content for name, token in named.items()},
        special_contents=contents,
        added_tokens=tuple(ordered),
        model_max_length=None if limit is None or limit > _UNLIMITED else int(limit),
        truncation_side=side,
        split_special_tokens=bool(options.pop("split_special_tokens")),
        **options,
    )


def _optional(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}


def _token(fields: Mapping[str, Any], name: str, path: Path, **known: Any) -> AddedToken:
    """A token of a serialised AddedToken; a flag that is absent has the `tokenizers` default."""
    content = fields.get("content")
    if not isinstance(content, str) or not content:
        raise InputError(f"{path}: {name} must be a token's text, got {content!r}")
    known.setdefault("special", bool(fields.get("special", False)))
    known["normalized"] = bool(fields.get("normalized", not known["special"]))
    flags = {flag: bool(fields.get(flag, False)) for flag in ("lstrip", "rstrip", "single_word")}
    return AddedToken(content, file=path.name, **flags, **known)


def _named_token(value: object, name: str, path: Path) -> AddedToken:
    """A special token without an id, from its text or from a serialised AddedToken."""
    if isinstance(value, dict):
        return _token(value, name, path, special=True)
    return _token({"content": value}, name, path, special=True, has_flags=False)


def _additional(names: Mapping[str, Any], path: Path) -> list[AddedToken]:
    """`additional_special_tokens` of transformers 4 and `extra_special_tokens` of 5."""
    found: list[AddedToken] = []
    for name in ("additional_special_tokens", "extra_special_tokens"):
        value = names.get(name) or []
        if isinstance(value, dict):
            value = list(value.values())
        if not isinstance(value, list):
            raise InputError(f"{path}: {name} must be a list of tokens, got {value!r}")
        found += [_named_token(token, name, path) for token in value]
    return found


def _from_older_files(folder: Path, contents: tuple[str, ...], kind: Kind) -> list[AddedToken]:
    """The tokens of `added_tokens.json`, special where they are among `contents`, and of
    `tokenizer.json`, which is large: the fast tokenizer reads it itself.
    """
    path = folder / _ADDED
    tokens = []
    for content, index in _optional(path).items():
        fields = {"content": content, "special": content in contents}
        tokens.append(_added_token(fields, index, path, has_flags=False))
    if kind == "fast":
        return tokens
    path = folder / FAST_FILE
    listed = _optional(path).get("added_tokens") or []
    if not isinstance(listed, list):
        raise InputError(f"{path}: added_tokens must be a list, got {type(listed).__name__}")
    for item in listed:
        index = item.get("id") if isinstance(item, dict) else None
        tokens.append(_added_token(item, index, path))
    return tokens


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
