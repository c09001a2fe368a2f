"""The tokenizer over `tokenizer.json`, through the `tokenizers` library.

The file is used as it is written. Its normaliser decides about lower case and white space, its
pre-tokenizer about punctuation; `tokenizer_config.json` gives the special tokens' names and the
limits, and a warning is logged where it contradicts the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from exporter.deberta.tokenization.encoding import Segment
from exporter.deberta.tokenization.settings import REQUIRED_TOKENS, TokenizerSettings
from exporter.deberta.tokenization.tokenizer import Tokenizer, check_ids, missing_token, read_file
from exporter.errors import InputError

_logger = logging.getLogger(__name__)
_OWN_PARTS = ("truncation", "padding", "added_tokens", "post_processor")


class FastTokenizer(Tokenizer):
    """See the module; made by `load_tokenizer`."""

    kind = "fast"

    def __init__(
        self, file: Path, settings: TokenizerSettings, source_files: tuple[Path, ...]
    ) -> None:
        self._backend = _load_backend(file)
        self._failure = f"{file}: the tokenizers library cannot tokenize this text with it"
        for name in REQUIRED_TOKENS:
            content = settings.special_tokens[name]
            if self._backend.token_to_id(content) is None:
                raise missing_token(file, name, content)
        _add_tokens(self._backend, settings, file)
        self._backend.encode_special_tokens = settings.split_special_tokens
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        ids = {content: vocabulary[content] for content in settings.special_contents}
        super().__init__(settings, ids, max(vocabulary.values()) + 1, source_files)
        self._check_format(file)
        # The library does not tell what its steps do, so they are tried.
        lower, split = self._backend.normalizer, self._backend.pre_tokenizer
        self.do_lower_case = lower is not None and "A" not in lower.normalize_str("A")
        self.split_by_punct = split is not None and len(split.pre_tokenize_str("a.b")) > 1
        for name in ("do_lower_case", "split_by_punct"):
            configured, actual = getattr(settings, name), getattr(self, name)
            if configured is not None and configured != actual:
                text = "%s: works with %s=%s, tokenizer_config.json says %s; the file is followed"
                _logger.warning(text, file, name, actual, configured)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        return str(self._backend.decode(check_ids(ids), skip_special_tokens=skip_special_tokens))

    def file_parts(self) -> dict[str, Any]:
        """What this tokenizer has in the place of those parts of `tokenizer.json`."""
        whole = json.loads(self._backend.to_str())
        return {name: whole[name] for name in _OWN_PARTS}

    def _segment(self, text: str) -> Segment:
        with _library_errors(self._failure):
            found = self._backend.encode(text, add_special_tokens=False)
        words = tuple(word or 0 for word in found.word_ids)  # None is for special tokens alone
        return Segment(tuple(found.ids), tuple(found.offsets), words)

    def _id_to_token(self, index: int) -> str | None:
        return self._backend.id_to_token(index)

    def _check_format(self, path: Path) -> None:
        """InputError unless the file joins texts as DeBERTa does; one that says nothing is told."""
        if self._backend.post_processor is None:
            ids = (self.cls_token_id, self.sep_token_id)
            first, last = (str(self._backend.id_to_token(index)) for index in ids)
            self._backend.post_processor = tokenizers.processors.TemplateProcessing(
                single=[first, "$A", last],
                pair=[first, "$A", last, "$B:1", f"{last}:1"],
                special_tokens=list(zip((first, last), ids, strict=True)),
            )
        single, pair = self._backend.encode(""), self._backend.encode("", "")
        expected = [self.cls_token_id, self.sep_token_id, self.sep_token_id]
        if (single.ids, pair.ids, pair.type_ids) != (expected[:2], expected, [0, 0, 1]):
            raise InputError(
                f"{path}: its post_processor does not make [CLS] A [SEP] B [SEP] with token types "
                "0 and 1; this is not a DeBERTa-v2 tokenizer"
            )


@contextmanager
def _library_errors(message: str) -> Iterator[None]:
    """Turns the library's errors into InputError; it raises Exception itself, and panics."""
    try:
        yield
    except BaseException as error:
        # A panic of the Rust code is a BaseException whose class cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{message}: {reason}") from None


def _load_backend(path: Path) -> tokenizers.Tokenizer:
    content = read_file(path)
    with _library_errors(f"{path}: is not a valid tokenizer.json"):
        backend = tokenizers.Tokenizer.from_buffer(content)
    # A training script may have left its own settings in the file; they are arguments here.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, settings: TokenizerSettings, path: Path) -> None:
    """Adds the tokens that only `tokenizer_config.json` names, as transformers does on loading.

    A token that is there with other flags gets those of `tokenizer_config.json`, if it has any.
    """
    present = {token.content: token for token in backend.get_added_tokens_decoder().values()}
    for token in settings.added_tokens:
        if token.id is None and token.content in present:
            continue
        added = tokenizers.AddedToken(
            token.content,
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special or token.content in settings.special_contents,
        )
        known = present.get(token.content)
        if known is None or (token.has_flags and repr(known) != repr(added)):
            add = backend.add_special_tokens if added.special else backend.add_tokens
            add([added])
        index = backend.token_to_id(token.content)
        if token.id is not None and index != token.id:
            raise InputError(
                f"{path}: gives the added token {token.content!r} the id {index}, {token.file} the "
                f"id {token.id}; the two are of different checkpoints"
            )
