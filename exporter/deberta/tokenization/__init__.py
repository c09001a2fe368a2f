"""DeBERTa-v2/v3 tokenizers, over `spm.model` or `tokenizer.json`, without transformers."""

from __future__ import annotations

from exporter.deberta.tokenization.encoding import (
    BatchEncoding,
    Encoding,
    Kind,
    Padding,
    Side,
    Truncation,
)
from exporter.deberta.tokenization.loading import load_tokenizer, tokenizer_files
from exporter.deberta.tokenization.tokenizer import Tokenizer, check_vocabulary

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
