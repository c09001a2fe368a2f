"""What happens to a text before SentencePiece sees it: lower case, cuts at tokens and punctuation.

The rules are those of the slow tokenizer of transformers 4.x.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from exporter.deberta.tokenization.settings import AddedToken
from exporter.errors import InputError


@dataclass(frozen=True)
class MappedText:
    """A text made from another; `origins[i]` is the source position of `text[i]`, None for i."""

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

    As in transformers' slow tokenizer a final capital sigma becomes the ordinary small one, and "İ"
    two characters.
    """
    pattern = "|".join(re.escape(token) for token in protected)
    chars = [char.lower() for char in text]
    for match in re.finditer(pattern, text) if pattern else ():
        chars[match.start() : match.end()] = match.group()
    lowered = "".join(chars)
    # Lower-casing never drops a character, so equal lengths mean that nothing moved.
    if len(lowered) == len(text):
        return MappedText(lowered)
    return MappedText(lowered, [i for i, char in enumerate(chars) for _ in char])


class AddedTokenSplitter:
    """Finds added tokens in a text: the leftmost, the longest of those that start there."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        self._tokens = {token.content: token for token in tokens}
        for token in self._tokens.values():
            if token.single_word:
                raise InputError(
                    f"the added token {token.content!r} has single_word set, which the "
                    "SentencePiece tokenizer does not do; use a tokenizer.json"
                )
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def split(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """Non-empty spans (start, end, is an added token) in order; stripped space is in none."""
        at = 0
        for match in self._pattern.finditer(text):
            token = self._tokens[match.group()]
            end = match.start()
            if token.lstrip:
                end = at + len(text[at:end].rstrip())
            if end > at:
                yield at, end, False
            yield match.start(), match.end(), True
            at = match.end()
            if token.rstrip:
                following = self._pattern.search(text, at)
                limit = following.start() if following else len(text)
                gap = text[at:limit]
                at += len(gap) - len(gap.lstrip())
        if at < len(text):
            yield at, len(text), False


def is_punctuation(char: str) -> bool:
    """Whether `char` is ASCII but no letter, digit, space or control, or in Unicode's P*."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def split_punctuation(text: str) -> Iterator[tuple[int, int]]:
    """Spans of `text`: each punctuation character by itself, and what lies between them."""
    at = 0
    for punctuation, run in groupby(text, is_punctuation):
        end = at + len(list(run))
        yield from ((i, i + 1) for i in range(at, end)) if punctuation else [(at, end)]
        at = end
