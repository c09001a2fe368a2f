"""Dataclasses to and from the values of JSON, checked against their types."""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


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
