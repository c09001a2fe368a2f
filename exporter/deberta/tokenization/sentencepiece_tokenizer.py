"""The tokenizer over `spm.model`, as transformers 4.x's slow `DebertaV2Tokenizer` works.

A text is lower-cased if asked for, cut at added tokens, then (with `split_by_punct`) at
punctuation, and every part goes to SentencePiece by itself. Offsets come from SentencePiece's own
alignment; the slow tokenizer has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import sentencepiece

from exporter.deberta.tokenization.encoding import Segment
from exporter.deberta.tokenization.settings import REQUIRED_TOKENS, TokenizerSettings
from exporter.deberta.tokenization.splitting import (
    AddedTokenSplitter,
    MappedText,
    lower_outside,
    split_punctuation,
)
from exporter.deberta.tokenization.tokenizer import Tokenizer, missing_token, read_file
from exporter.errors import InputError, MissingDependencyError


class SentencePieceTokenizer(Tokenizer):
    """See the module; made by `load_tokenizer`."""

    kind = "sentencepiece"

    def __init__(
        self, model_file: Path, settings: TokenizerSettings, source_files: tuple[Path, ...]
    ) -> None:
        self._model = _load_model(model_file)
        self._piece_count: int = self._model.get_piece_size()
        self._added = _added_ids(self._model, settings, model_file)
        self._added_by_id = {index: content for content, index in self._added.items()}
        self._specials = frozenset(settings.special_contents)
        # Added tokens that transformers sets off by spaces when it decodes.
        named = settings.special_tokens.values()
        self._spaced = frozenset(
            content
            for content, index in self._added.items()
            if content not in self._specials
            or (content not in named and index >= self._piece_count)
        )
        self._splitter = AddedTokenSplitter(settings.added_tokens)
        self._whole = settings.split_special_tokens
        self.do_lower_case = bool(settings.do_lower_case)
        self.split_by_punct = bool(settings.split_by_punct)
        # Added tokens that are neither special nor normalised are lower-cased before the search
        # for them, and so are found only where they are lower case already: as in transformers.
        self._protected = settings.special_contents + tuple(
            item.content for item in settings.added_tokens if not item.special and item.normalized
        )
        vocab_size = max(self._piece_count, *(index + 1 for index in self._added.values()))
        super().__init__(settings, self._added, vocab_size, source_files)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        skipped = self._specials if skip_special_tokens else frozenset()
        tokens = [token for token in self.convert_ids_to_tokens(ids) if token not in skipped]
        parts: list[str] = []
        for spaced, run in groupby(tokens, self._spaced.__contains__):
            together = list(run)
            parts += together if spaced else [self._join(together)]
        # As in transformers, a last part that is empty has its space.
        return " ".join([*filter(None, parts[:-1]), *parts[-1:]])

    def _join(self, tokens: list[str]) -> str:
        """The text of pieces and special tokens, a space before pieces that one follows."""
        text = pieces = ""
        for special, run in groupby(tokens, self._specials.__contains__):
            if special:
                text += f" {pieces}{''.join(run)}"
                pieces = ""
            else:
                pieces = str(self._model.decode_pieces(list(run)))
        return (text + pieces).strip()

    def _segment(self, text: str) -> Segment:
        found = list(self._tokens(text))
        words = accumulate((begins for _, _, begins in found[1:]), initial=0)
        return Segment(
            tuple(index for index, _, _ in found),
            tuple(span for _, span, _ in found),
            tuple(words)[: len(found)],
        )

    def _tokens(self, text: str) -> Iterator[tuple[int, tuple[int, int], bool]]:
        """(id, span in `text`, whether it begins a word) in order."""
        mapped = lower_outside(text, self._protected) if self.do_lower_case else MappedText(text)
        whole = [(0, len(mapped.text), False)] if mapped.text else []
        for start, end, is_added in whole if self._whole else self._splitter.split(mapped.text):
            part = mapped.text[start:end]
            if is_added:
                yield self._added[part], mapped.source_span(start, end), True
                continue
            spans = split_punctuation(part) if self.split_by_punct else [(0, len(part))]
            for first, last in spans:
                yield from self._encode_part(part[first:last], start + first, mapped)

    def _encode_part(
        self, part: str, at: int, mapped: MappedText
    ) -> Iterator[tuple[int, tuple[int, int], bool]]:
        found = self._model.encode(part, out_type="offset_mapping")
        rows = zip(found["pieces"], found["ids"], found["offsets"], strict=True)
        for place, (piece, index, (start, end)) in enumerate(rows):
            # SentencePiece gives an empty span to the word mark that it puts before a text, and to
            # all but the last of the pieces that one character normalises to. Such a piece gets
            # that character, as in the fast tokenizer.
            end = min(max(end, start + 1), len(part))
            # transformers looks every piece up by its text, added tokens first.
            span = mapped.source_span(at + start, at + end)
            yield self._added.get(piece, index), span, place == 0 or piece.startswith("▁")

    def _id_to_token(self, index: int) -> str | None:
        if index in self._added_by_id:
            return self._added_by_id[index]
        return str(self._model.id_to_piece(index)) if index < self._piece_count else None


def _load_model(path: Path) -> Any:
    content = read_file(path)
    model = sentencepiece.SentencePieceProcessor()
    try:
        # An empty file is a valid protocol buffer, and a model without pieces.
        loaded = bool(content) and model.LoadFromSerializedProto(content)
    except (RuntimeError, ValueError):
        loaded = False
    if not loaded or model.get_piece_size() == 0:
        raise InputError(
            f"{path}: is not a SentencePiece model, or is damaged; copy it again from its source"
        )
    try:
        model.encode("", out_type="offset_mapping")
    except (RuntimeError, ValueError):
        raise MissingDependencyError(
            f"sentencepiece {sentencepiece.__version__} gives no offsets; "
            "install sentencepiece>=0.2.2"
        ) from None
    return model


def _added_ids(model: Any, settings: TokenizerSettings, path: Path) -> dict[str, int]:
    """The id of every added token: the files' own, else the vocabulary's, else the next free one.

    transformers would give new ids to [PAD], [CLS], [SEP] and [UNK] as well; for a model that was
    trained this means a wrong vocabulary, and it is an InputError here.
    """
    count = model.get_piece_size()
    required = {settings.special_tokens[name]: name for name in REQUIRED_TOKENS}
    ids = {token.content: token.id for token in settings.added_tokens if token.id is not None}
    for content in settings.special_contents:
        if content in ids:
            continue
        index = _piece_index(model, content)
        if index is None:
            if content in required:
                raise missing_token(path, required[content], content)
            index = count + sum(_piece_index(model, other) is None for other in ids)
        ids[content] = index
    return ids


def _piece_index(model: Any, content: str) -> int | None:
    index = int(model.piece_to_id(content))
    return index if model.id_to_piece(index) == content else None
