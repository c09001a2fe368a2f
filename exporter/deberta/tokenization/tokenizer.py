"""The tokenizer that the rest of the project sees, and what both kinds of it share.

A kind turns a text into tokens (`_segment`); checks, truncation and special tokens are the same
code for both, so that they cannot differ but in the tokens.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from exporter.deberta.model_folder import refuse_pointer
from exporter.deberta.tokenization.encoding import (
    Encoding,
    Kind,
    Segment,
    Truncation,
    assemble,
    kept_lengths,
    window_starts,
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
        self, settings: TokenizerSettings, ids: dict[str, int], size: int, files: tuple[Path, ...]
    ) -> None:
        """`ids` has the id of every special token by its text; see the class for the rest."""
        names = settings.special_tokens
        self.vocab_size = size
        self.pad_token_id = ids[names["pad_token"]]
        self.cls_token_id = ids[names["cls_token"]]
        self.sep_token_id = ids[names["sep_token"]]
        self.unk_token_id = ids[names["unk_token"]]
        self.mask_token_id = ids[names["mask_token"]]
        self.model_max_length = settings.model_max_length
        self.truncation_side = settings.truncation_side
        self.source_files = files
        self._unk_token = names["unk_token"]

    def file_parts(self) -> dict[str, Any]:
        """Parts of its vocabulary file that it has otherwise than the file, which clients read."""
        return {}

    @abstractmethod
    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids that have no token are left out or shown as the unknown token."""

    @abstractmethod
    def _segment(self, text: str) -> Segment:
        """The tokens of the checked `text`, whole."""

    @abstractmethod
    def _id_to_token(self, index: int) -> str | None: ...

    def encode(
        self, text: str, pair: str | None = None, *, add_special_tokens: bool = True,
        truncation: Truncation = "longest_first", max_length: int | None = None,
    ) -> Encoding:  # fmt: skip
        """One text or pair as model input, not padded.

        `max_length` counts the special tokens; when it is None, `model_max_length` holds, and
        without that nothing is truncated. Raises InputError for a text that is no str or has lone
        surrogates, a `max_length` that leaves no room for the special tokens, and a `truncation`
        that cannot reach it.
        """
        segments = self._segments(text, pair)
        if truncation not in get_args(Truncation):
            choices = ", ".join(get_args(Truncation))
            raise InputError(f"truncation must be one of {choices}, got {truncation!r}")
        limit = self.model_max_length if max_length is None else _check_length(max_length)
        lengths = [len(segment) for segment in segments]
        special_ids = (self.cls_token_id, self.sep_token_id) if add_special_tokens else ()
        budget = sum(lengths)
        if limit is not None and truncation != "do_not_truncate":
            room = 1 + len(segments) if special_ids else 0
            if limit < room:
                raise InputError(f"max_length {limit} leaves no room for the {room} special tokens")
            budget = limit - room
        kept = kept_lengths(lengths, budget, truncation, self.kind)
        side = self.truncation_side
        cut = [segment.cut(count, side) for segment, count in zip(segments, kept, strict=True)]
        return assemble(cut, special_ids, sum(lengths) - sum(kept))

    def encode_windows(
        self, text: str, pair: str | None = None, *, max_length: int, stride: int | None = None,
        windowed: Literal["text", "pair", "longer"] = "longer",
    ) -> tuple[Encoding, ...]:  # fmt: skip
        """A text or pair in windows of at most `max_length` tokens, as model inputs.

        `windowed` is the text that is cut; the other one is whole in each window. A window begins
        with the `stride` last tokens of the one before, half of a window by default, at most 128.
        Raises InputError as `encode`, and where the whole text, `stride` and special tokens leave
        no room.
        """
        segments = self._segments(text, pair)
        lengths = [len(segment) for segment in segments]
        cut = {"text": 0, "pair": len(segments) - 1}.get(windowed, lengths.index(max(lengths)))
        special_ids = (self.cls_token_id, self.sep_token_id)
        size = max_length - 1 - len(segments) - sum(lengths) + lengths[cut]
        shared = min(128, max_length // 2, size // 2) if stride is None else stride
        if size < lengths[cut] and size <= max(shared, 0):
            raise InputError(
                f"windows of {max_length} tokens have {max(size, 0)} left for the long text, of "
                f"which they share {max(shared, 0)}; shorten the other text or the stride"
            )
        found = []
        for first in window_starts(lengths[cut], max(size, shared + 1), shared):
            parts = list(segments)
            parts[cut] = segments[cut].part(first, size)
            dropped = lengths[cut] - len(parts[cut])
            found.append(assemble(parts, special_ids, dropped, first))
        return tuple(found)

    def _segments(self, text: str, pair: str | None) -> list[Segment]:
        """The tokens of the texts; InputError where one is no text."""
        _check_text(text, "text")
        if pair is not None:
            _check_text(pair, "pair")
        return [self._segment(item) for item in (text, pair) if item is not None]

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id; ids without one give the unknown token.

        A model may have more embedding rows than there are tokens. Raises InputError for an id
        below 0.
        """
        tokens = (self._id_to_token(index) for index in check_ids(ids))
        return [self._unk_token if token is None else token for token in tokens]


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


def _check_text(text: object, name: str) -> None:
    """InputError unless `text` is a string that UTF-8 can represent."""
    if not isinstance(text, str):
        raise InputError(f"{name} must be a str, got {type(text).__name__}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has a lone surrogate (U+{ord(text[error.start]):04X}) at character "
            f"{error.start}; decode the text properly or replace it"
        ) from None


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


def missing_token(file: Path, name: str, content: str) -> InputError:
    """The error of a vocabulary `file` that lacks a token which the model needs."""
    return InputError(
        f"{file}: has no {name} {content!r}; name the right token in tokenizer_config.json or use "
        f"the {file.name} that the checkpoint came with"
    )


def read_file(path: Path) -> bytes:
    """The content of a vocabulary; InputError when it cannot be read."""
    refuse_pointer(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
