"""Checks of the texts that a caller passes in."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.errors import InputError


def check_text(text: object, name: str = "text") -> str:
    """`text` itself when it is a string that UTF-8 can represent; InputError otherwise."""
    if not isinstance(text, str):
        raise InputError(f"{name} must be a str, got {type(text).__name__}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{name} has a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                f"{error.start}; decode the text properly or replace it"
            ) from None
    return text


def check_texts(texts: object) -> list[tuple[str, str | None]]:
    """Checks a batch and returns it as (text, pair or None)."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise InputError(
            f"texts must be a sequence of str or (str, str), got {type(texts).__name__}"
        )
    checked: list[tuple[str, str | None]] = []
    for i, item in enumerate(texts):
        if isinstance(item, (tuple, list)):
            if len(item) != 2:
                raise InputError(f"texts[{i}] must be a str or a pair, got {len(item)} items")
            first, second = item
            checked.append(
                (check_text(first, f"texts[{i}][0]"), check_text(second, f"texts[{i}][1]"))
            )
        else:
            checked.append((check_text(item, f"texts[{i}]"), None))
    return checked
