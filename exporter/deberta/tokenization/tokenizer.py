"""The tokenizer that the rest of the project sees, and what both kinds of it share.

A kind turns texts into tokens (`_segments`); checks, truncation, special tokens and padding are the
same code for both, so that they cannot differ but in the tokens.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from exporter.deberta.tokenization.encoding import (
    BatchEncoding,
    Encoding,
    Kind,
    Padding,
    Segment,
    Side,
    Truncation,
    assemble,
    kept_lengths,
    pad,
)
from exporter.deberta.tokenization.settings import TokenizerSettings
from exporter.errors import InputError


class Tokenizer(ABC):
    """Texts to ids and back. Made by `load_tokenizer`; immutable, safe to share between threads.

    `vocab_size` is the largest id plus one, added tokens included. `do_lower_case` says whether
    texts are lower-cased, `split_by_punct` whether punctuation is split off before the vocabulary
    is consulted. `model_max_length` is None when the files set no maximum. `source_files` are the
    files it was loaded from, the vocabulary first.
    """

    kind: Kind
    do_lower_case: bool
    split_by_punct: bool

    def __init__(
        self,
        settings: TokenizerSettings,
        ids: Mapping[str, int],
        vocab_size: int,
        source_files: tuple[Path, ...],
    ) -> None:
        """`ids` has the id of every special token by its text."""
        names = settings.special_tokens
        self.vocab_size = vocab_size
        self.pad_token_id = ids[names["pad_token"]]
        self.cls_token_id = ids[names["cls_token"]]
        self.sep_token_id = ids[names["sep_token"]]
        self.unk_token_id = ids[names["unk_token"]]
        self.mask_token_id = ids[names["mask_token"]]
        self.model_max_length = settings.model_max_length
        self.padding_side: Side = settings.padding_side
        self.truncation_side: Side = settings.truncation_side
        self.source_files = source_files
        self._unk_token = names["unk_token"]

    @abstractmethod
    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids that have no token are left out or shown as the unknown token."""

    @abstractmethod
    def _segments(self, texts: Sequence[str]) -> list[Segment]:
        """The tokens of each of the checked `texts`, whole."""

    @abstractmethod
    def _id_to_token(self, index: int) -> str | None: ...

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        add_special_tokens: bool = True,
        truncation: Truncation = "longest_first",
        max_length: int | None = None,
    ) -> Encoding:
        """One text or pair as model input, not padded.

        `max_length` counts the special tokens; when it is None, `model_max_length` holds, and
        without that nothing is truncated. Raises InputError for a text that is no str or has lone
        surrogates, a `max_length` that leaves no room for the special tokens, and a `truncation`
        that cannot reach it.
        """
        item = (_check_text(text, "text"), None if pair is None else _check_text(pair, "pair"))
        return self._encode([item], add_special_tokens, truncation, max_length)[0]

    def encode_batch(
        self,
        texts: Sequence[str | tuple[str, str]],
        *,
        add_special_tokens: bool = True,
        truncation: Truncation = "longest_first",
        max_length: int | None = None,
        padding: Padding = "longest",
        pad_to_multiple_of: int | None = None,
        padding_side: Side | None = None,
    ) -> BatchEncoding:
        """Texts or pairs as padded int64 arrays of shape (B, S).

        S is the longest encoding, or `max_length` (`model_max_length` where it is None) with
        padding "max_length", rounded up to a multiple of `pad_to_multiple_of`. `padding_side`
        defaults to the one in `tokenizer_config.json`. Raises InputError as `encode` does, naming
        the text by its index.
        """
        items = _check_texts(texts)
        side = self.padding_side if padding_side is None else padding_side
        if side not in ("right", "left"):
            raise InputError(f'padding_side must be "right" or "left", got {side!r}')
        encodings = self._encode(items, add_special_tokens, truncation, max_length)
        target = self.model_max_length if max_length is None else max_length
        return pad(encodings, padding, target, pad_to_multiple_of, self.pad_token_id, side)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id; ids without one give the unknown token.

        A model may have more embedding rows than there are tokens. Raises InputError for an id
        below 0.
        """
        tokens = (self._id_to_token(index) for index in check_ids(ids))
        return [self._unk_token if token is None else token for token in tokens]

    def _encode(
        self,
        items: Sequence[tuple[str, str | None]],
        add_special_tokens: bool,
        truncation: Truncation,
        max_length: int | None,
    ) -> list[Encoding]:
        if truncation not in get_args(Truncation):
            choices = ", ".join(get_args(Truncation))
            raise InputError(f"truncation must be one of {choices}, got {truncation!r}")
        limit = self.model_max_length if max_length is None else _check_length(max_length)
        segments = iter(
            self._segments([text for item in items for text in item if text is not None])
        )
        special_ids = (self.cls_token_id, self.sep_token_id) if add_special_tokens else None
        encodings = []
        for i, (_, pair) in enumerate(items):
            first = next(segments)
            second = None if pair is None else next(segments)
            room = (2 if second is None else 3) if add_special_tokens else 0
            lengths = (len(first), None if second is None else len(second))
            try:
                kept = self._kept(lengths, room, truncation, limit)
            except InputError as error:
                where = f"texts[{i}]: " if len(items) > 1 else ""
                raise InputError(f"{where}{error}") from None
            first = first.cut(kept[0], self.truncation_side)
            if second is not None and kept[1] is not None:
                second = second.cut(kept[1], self.truncation_side)
            encodings.append(assemble(first, second, special_ids, kept != lengths))
        return encodings

    def _kept(
        self,
        lengths: tuple[int, int | None],
        room: int,
        truncation: Truncation,
        limit: int | None,
    ) -> tuple[int, int | None]:
        """`kept_lengths` for what `limit` leaves beside the `room` of the special tokens."""
        if limit is None or truncation == "do_not_truncate":
            budget = lengths[0] + (lengths[1] or 0)
        elif limit < room:
            raise InputError(f"max_length {limit} leaves no room for the {room} special tokens")
        else:
            budget = limit - room
        return kept_lengths(*lengths, budget, truncation, self.kind)


def check_vocabulary(tokenizer: Tokenizer, embedding_rows: int) -> None:
    """Raises InputError when the tokenizer can produce an id of `embedding_rows` or more.

    More rows than tokens are normal: DeBERTa-v3 has 128,100 rows for 128,001 tokens.
    """
    if tokenizer.vocab_size > embedding_rows:
        largest = tokenizer.vocab_size - 1
        token = tokenizer.convert_ids_to_tokens([largest])[0]
        raise InputError(
            f"{tokenizer.source_files[0]}: the tokenizer has ids up to {largest} ({token!r}), the "
            f"embedding only {embedding_rows} rows; take both from the same checkpoint"
        )


def _check_text(text: object, name: str) -> str:
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


def _check_texts(texts: object) -> list[tuple[str, str | None]]:
    """A batch as (text, pair or None)."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise InputError(
            f"texts must be a sequence of str or (str, str), got {type(texts).__name__}"
        )
    checked: list[tuple[str, str | None]] = []
    for i, item in enumerate(texts):
        if not isinstance(item, (tuple, list)):
            checked.append((_check_text(item, f"texts[{i}]"), None))
        elif len(item) != 2:
            raise InputError(f"texts[{i}] must be a str or a pair, got {len(item)} items")
        else:
            first, second = (_check_text(item[k], f"texts[{i}][{k}]") for k in (0, 1))
            checked.append((first, second))
    return checked


def _check_length(max_length: object) -> int:
    try:
        limit = operator.index(max_length)  # type: ignore[arg-type]  # NumPy's integers too
    except TypeError:
        limit = -1
    if limit < 0 or isinstance(max_length, bool):
        raise InputError(f"max_length must be a positive integer, got {max_length!r}")
    return limit


def check_ids(ids: Iterable[int]) -> list[int]:
    """The ids as integers; InputError for one below 0."""
    checked = [int(index) for index in ids]
    if checked and min(checked) < 0:
        raise InputError(f"token ids must not be negative, got {min(checked)}")
    return checked
