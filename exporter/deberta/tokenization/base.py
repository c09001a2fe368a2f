"""The tokenizer that the rest of the project sees, and what both kinds of it share.

A kind turns texts into tokens (`_segments`); checks, truncation, special tokens and padding are the
same code for both, so that they cannot differ but in the tokens.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

from exporter.deberta.tokenization.assembly import assemble, num_special_tokens, pad, padded_length
from exporter.deberta.tokenization.settings import TokenizerSettings
from exporter.deberta.tokenization.texts import check_text, check_texts
from exporter.deberta.tokenization.truncation import check_truncation, cut, kept_lengths
from exporter.deberta.tokenization.types import (
    BatchEncoding,
    Encoding,
    Kind,
    Padding,
    Segment,
    Side,
    Truncation,
)
from exporter.errors import InputError


class Tokenizer(ABC):
    """Texts to ids and back. Made by `load_tokenizer`; immutable, safe to share between threads.

    `vocab_size` is the largest id plus one, added tokens included. `model_max_length` is None when
    the files set no maximum. `source_files` are the files it was loaded from.
    """

    kind: Kind

    def __init__(
        self,
        settings: TokenizerSettings,
        special_ids: dict[str, int],
        all_special_ids: Iterable[int],
        vocab_size: int,
        source_files: tuple[Path, ...],
    ) -> None:
        self.vocab_size = vocab_size
        self.pad_token_id = special_ids["pad_token"]
        self.cls_token_id = special_ids["cls_token"]
        self.sep_token_id = special_ids["sep_token"]
        self.unk_token_id = special_ids["unk_token"]
        self.mask_token_id = special_ids["mask_token"]
        self.all_special_ids = frozenset(all_special_ids)
        self.model_max_length = settings.model_max_length
        self.padding_side: Side = settings.padding_side
        self.truncation_side: Side = settings.truncation_side
        self.source_files = source_files
        self._unk_token = settings.special_tokens["unk_token"]

    @property
    @abstractmethod
    def do_lower_case(self) -> bool:
        """Whether texts are lower-cased."""

    @property
    @abstractmethod
    def split_by_punct(self) -> bool:
        """Whether punctuation is split off before the vocabulary is consulted."""

    @abstractmethod
    def tokenize(self, text: str) -> list[str]:
        """The tokens of `text`, no special tokens added; an unknown token keeps its own text."""

    @abstractmethod
    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of `ids`; ids that have no token are left out or shown as the unknown token."""

    @abstractmethod
    def _segments(self, texts: Sequence[str]) -> list[Segment]:
        """The tokens of each of the checked `texts`, whole."""

    @abstractmethod
    def _token_to_id(self, token: str) -> int | None: ...

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
        item = (check_text(text), None if pair is None else check_text(pair, "pair"))
        limit = self._limit(truncation, max_length)
        return self._encode([item], add_special_tokens, truncation, limit)[0]

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
        items = check_texts(texts)
        side = self.padding_side if padding_side is None else padding_side
        if side not in ("right", "left"):
            raise InputError(f'padding_side must be "right" or "left", got {side!r}')
        limit = self._limit(truncation, max_length)
        encodings = self._encode(items, add_special_tokens, truncation, limit)
        target = self.model_max_length if max_length is None else max_length
        lengths = [len(e) for e in encodings]
        length = padded_length(lengths, padding, target, pad_to_multiple_of)
        return pad(encodings, length, self.pad_token_id, side)

    def convert_ids_to_tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id; ids without one give the unknown token.

        A model may have more embedding rows than there are tokens. Raises InputError for an id
        below 0.
        """
        tokens = (self._id_to_token(index) for index in self._checked_ids(ids))
        return [self._unk_token if token is None else token for token in tokens]

    def convert_tokens_to_ids(self, tokens: Iterable[str]) -> list[int]:
        """The id of each token; what is no token gives `unk_token_id`."""
        ids = (self._token_to_id(check_text(token, "token")) for token in tokens)
        return [self.unk_token_id if index is None else index for index in ids]

    def get_special_tokens_mask(self, ids: Iterable[int]) -> list[int]:
        """1 for every id that is a special token (the unknown token included), else 0.

        This judges by id, as transformers' method does for ids that have their special tokens;
        `Encoding.special_tokens_mask` judges by who put the token there.
        """
        return [int(index in self.all_special_ids) for index in self._checked_ids(ids)]

    def save_vocabulary(self, folder: Path) -> tuple[Path, ...]:
        """Copies the files it was loaded from into `folder` and returns their new paths.

        The copies are byte for byte, and load again here and in transformers. Raises InputError
        when a file is gone or cannot be written.
        """
        saved = []
        for source in self.source_files:
            target = Path(folder) / source.name
            try:
                content = source.read_bytes()
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            except OSError as error:
                raise InputError(
                    f"{error.filename or target}: the tokenizer cannot be saved: {error.strerror}"
                ) from None
            saved.append(target)
        return tuple(saved)

    def _limit(self, truncation: Truncation, max_length: int | None) -> int | None:
        check_truncation(truncation)
        if max_length is None:
            return self.model_max_length
        try:
            limit = operator.index(max_length)  # NumPy's integers too
        except TypeError:
            limit = -1
        if limit < 0 or isinstance(max_length, bool):
            raise InputError(f"max_length must be a positive integer, got {max_length!r}")
        return limit

    def _encode(
        self,
        items: Sequence[tuple[str, str | None]],
        add_special_tokens: bool,
        truncation: Truncation,
        max_length: int | None,
    ) -> list[Encoding]:
        texts = [text for item in items for text in item if text is not None]
        segments = iter(self._segments(texts))
        special_ids = (self.cls_token_id, self.sep_token_id) if add_special_tokens else None
        encodings = []
        for i, (_, pair) in enumerate(items):
            first = next(segments)
            second = None if pair is None else next(segments)
            room = num_special_tokens(second is not None) if add_special_tokens else 0
            lengths = (len(first), None if second is None else len(second))
            kept = self._kept(lengths, room, truncation, max_length, i if len(items) > 1 else None)
            if kept != lengths:
                first = cut(first, kept[0], self.truncation_side)
                if second is not None and kept[1] is not None:
                    second = cut(second, kept[1], self.truncation_side)
            encodings.append(assemble(first, second, special_ids, kept != lengths))
        return encodings

    def _kept(
        self,
        lengths: tuple[int, int | None],
        room: int,
        truncation: Truncation,
        max_length: int | None,
        index: int | None,
    ) -> tuple[int, int | None]:
        """`kept_lengths` for what `max_length` leaves, its errors naming the text `index`."""
        where = "" if index is None else f"texts[{index}]: "
        if max_length is None or truncation == "do_not_truncate":
            budget = lengths[0] + (lengths[1] or 0)
        elif max_length < room:
            raise InputError(
                f"{where}max_length {max_length} leaves no room for the {room} special tokens"
            )
        else:
            budget = max_length - room
        try:
            return kept_lengths(*lengths, budget, truncation, self.kind)
        except InputError as error:
            raise InputError(f"{where}{error}") from None

    def _checked_ids(self, ids: Iterable[int]) -> list[int]:
        checked = [int(index) for index in ids]
        if checked and min(checked) < 0:
            raise InputError(f"token ids must not be negative, got {min(checked)}")
        return checked
