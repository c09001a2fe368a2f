"""DeBERTa-v2/v3 tokenizers, over `spm.model` or `tokenizer.json`, without transformers."""

from __future__ import annotations

from exporter.deberta.tokenization.base import Tokenizer
from exporter.deberta.tokenization.loading import load_tokenizer, tokenizer_files
from exporter.deberta.tokenization.types import (
    BatchEncoding,
    Encoding,
    Kind,
    Padding,
    Side,
    Truncation,
)
from exporter.deberta.tokenization.vocabulary import check_vocabulary

__all__ = [
    "BatchEncoding",
    "Encoding",
    "Kind",
    "Padding",
    "Side",
    "Tokenizer",
    "Truncation",
    "check_vocabulary",
    "load_tokenizer",
    "tokenizer_files",
]
