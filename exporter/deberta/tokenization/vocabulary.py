"""The check that a tokenizer and a model's embedding fit together."""

from __future__ import annotations

from exporter.deberta.tokenization.base import Tokenizer
from exporter.errors import InputError


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
