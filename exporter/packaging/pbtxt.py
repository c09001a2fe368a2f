"""Writes protobuf's text format, as far as a model configuration needs it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TypeAlias


class Name(str):
    """A value that is written bare: the name of an enumeration's member."""

    __slots__ = ()


Value: TypeAlias = "str | bool | int | Mapping[str, Value] | list[Value]"


def write(message: Mapping[str, Value]) -> str:
    """The text of `message`: mappings are messages, lists are repeated fields."""
    return "\n".join(_lines(message, "")) + "\n"


def _lines(message: Mapping[str, Value], indent: str) -> Iterator[str]:
    for key, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, Mapping):
                yield f"{indent}{key} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"
            else:
                # JSON's words and escapes are a part of those of the text format.
                yield f"{indent}{key}: {item if isinstance(item, Name) else json.dumps(item)}"
