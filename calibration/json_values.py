"""JSON files and their values: the only reader, and the only check against types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

T = TypeVar("T")

_EXPECTED: dict[object, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false",
    tuple[str, ...]: "a list of texts",
}  # fmt: skip


def read_json(path: Path) -> object:
    """What a file of UTF-8 JSON holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or too deeply nested; the message says where.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(str(error)) from None


def to_json_values(value: object) -> Any:
    """Dataclasses as mappings in the order of their fields, keys and paths as text."""
    import msgspec  # here, since it is the heaviest import of --help

    return msgspec.to_builtins(value, str_keys=True, enc_hook=str)


def from_json_values(values: object, kind: type[T]) -> T:
    """The `kind` that `to_json_values` gave; fields that it does not have are ignored.

    Raises:
        ValueError: a field is missing or of another type; the message says which and where.
        InputError: a value that a dataclass refuses.
    """
    import msgspec

    return msgspec.convert(values, kind, str_keys=True, dec_hook=lambda other, value: other(value))


def field_of(data: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """A field of a JSON object, a whole number also as a float.

    Raises:
        ValueError: it is missing, or of another kind; the message begins with its name.
    """
    if key not in data:
        raise ValueError(f"{key} is missing")
    try:
        return from_json_values(data[key], kind)
    except ValueError as error:
        if "out of range" in str(error):
            raise ValueError(f"{key} is out of range") from None
        if kind is dict:
            raise ValueError(f"{key} is no object") from None
        named = [_EXPECTED[part] for part in (kind, *get_args(kind)) if part in _EXPECTED]
        raise ValueError(
            f"{key} is {data[key]!r}; expected {named[0] if named else error}"
        ) from None
