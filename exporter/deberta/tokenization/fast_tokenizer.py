"""The tokenizer over `tokenizer.json`, through the `tokenizers` library.

The file is used as it is written. Its normaliser decides about lower case and white space, its
pre-tokenizer about punctuation; `tokenizer_config.json` gives the special tokens' names and the
limits, and a warning is logged where it contradicts the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tokenizers

from exporter.deberta.tokenization.encoding import Segment
from exporter.deberta.tokenization.settings import REQUIRED_TOKENS, TokenizerSettings
from exporter.deberta.tokenization.tokenizer import Tokenizer, check_ids
from exporter.errors import InputError

_logger = logging.getLogger(__name__)


class FastTokenizer(Tokenizer):
    """See the module; made by `load_tokenizer`."""

    kind = "fast"

    def __init__(
        self, file: Path, settings: TokenizerSettings, source_files: tuple[Path, ...]
    ) -> None:
        self._backend = _load_backend(file)
        self._failure = f"{file}: the tokenizers library cannot tokenize this text with it"
        _check_required(self._backend, settings, file)
        _add_tokens(self._backend, settings, file)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        ids = {content: vocabulary[content] for content in settings.special_contents}
        super().__init__(settings, ids, max(vocabulary.values()) + 1, source_files)
        self._check_format(file)
        self.do_lower_case = _lowers(self._backend)
        self.split_by_punct = _splits(self._backend)
        _warn_about("do_lower_case", settings.do_lower_case, self.do_lower_case, file)
        _warn_about("split_by_punct", settings.split_by_punct, self.split_by_punct, file)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        return str(self._backend.decode(check_ids(ids), skip_special_tokens=skip_special_tokens))

    def _segments(self, texts: Sequence[str]) -> list[Segment]:
        with _library_errors(self._failure):
            found = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [Segment(tuple(e.ids), tuple(e.offsets)) for e in found]

    def _id_to_token(self, index: int) -> str | None:
        token: str | None = self._backend.id_to_token(index)
        return token

    def _check_format(self, path: Path) -> None:
        """InputError unless the file joins texts as DeBERTa does, or says nothing about it."""
        if self._backend.post_processor is None:
            return
        single = self._backend.encode("", add_special_tokens=True)
        pair = self._backend.encode("", "")
        cls_id, sep_id = self.cls_token_id, self.sep_token_id
        expected = ([cls_id, sep_id], [cls_id, sep_id, sep_id], [0, 0, 1])
        if (single.ids, pair.ids, pair.type_ids) != expected:
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
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    with _library_errors(f"{path}: is not a valid tokenizer.json"):
        backend = tokenizers.Tokenizer.from_buffer(content)
    # A training script may have left its own settings in the file; they are arguments here.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _check_required(backend: tokenizers.Tokenizer, settings: TokenizerSettings, path: Path) -> None:
    for name in REQUIRED_TOKENS:
        content = settings.special_tokens[name]
        if backend.token_to_id(content) is None:
            raise InputError(
                f"{path}: has no {name} {content!r}; name the right token in "
                "tokenizer_config.json or use the tokenizer.json that the checkpoint came with"
            )


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
                f"{path}: gives the added token {token.content!r} the id {index}, "
                f"tokenizer_config.json the id {token.id}; the two are of different checkpoints"
            )


def _lowers(backend: tokenizers.Tokenizer) -> bool:
    """Whether the normaliser lower-cases; the library does not tell, so it is tried."""
    normalizer = backend.normalizer
    return normalizer is not None and "A" not in normalizer.normalize_str("A")


def _splits(backend: tokenizers.Tokenizer) -> bool:
    """Whether the pre-tokenizer splits at punctuation."""
    pre_tokenizer = backend.pre_tokenizer
    return pre_tokenizer is not None and len(pre_tokenizer.pre_tokenize_str("a.b")) > 1


def _warn_about(name: str, configured: bool | None, actual: bool, path: Path) -> None:
    if configured is not None and configured != actual:
        _logger.warning(
            "%s: works with %s=%s, tokenizer_config.json says %s; the file is followed",
            path,
            name,
            actual,
            configured,
        )
