"""Lower-casing that remembers where each character came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class MappedText:
    """A text made from another one; `origins[i]` is the source position of `text[i]`.

    `origins` is None when positions are unchanged.
    """

    text: str
    origins: Sequence[int] | None = None

    def source_span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the source that `text[start:end]` came from."""
        if self.origins is None:
            return start, end
        if start == end:
            # Past the last character there is no origin; the character before it has one.
            at = self.origins[start] if start < len(self.origins) else self.origins[-1] + 1
            return at, at
        return self.origins[start], self.origins[end - 1] + 1


def lower_outside(text: str, protected: Iterable[str]) -> MappedText:
    """Lower-cases `text` character by character, leaving `protected` substrings alone.

    transformers' slow tokenizer does the same: each character by itself, so a final capital sigma
    becomes the ordinary small one, and "İ" becomes two characters.
    """
    pattern = "|".join(re.escape(token) for token in protected)
    pieces: list[str] = []
    origins: list[int] = []
    at = 0
    for match in re.finditer(pattern, text) if pattern else ():
        _lower_span(text, at, match.start(), pieces, origins)
        pieces.append(match.group())
        origins.extend(range(match.start(), match.end()))
        at = match.end()
    _lower_span(text, at, len(text), pieces, origins)
    lowered = "".join(pieces)
    # Lower-casing never drops a character, so equal lengths mean that nothing moved.
    return MappedText(lowered, None if len(lowered) == len(text) else origins)


def _lower_span(text: str, start: int, end: int, pieces: list[str], origins: list[int]) -> None:
    for i in range(start, end):
        lowered = text[i].lower()
        pieces.append(lowered)
        origins.extend([i] * len(lowered))
