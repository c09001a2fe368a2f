"""DeBERTa-v2/v3 tokenizers, over `spm.model` or `tokenizer.json`, without transformers."""

from exporter.deberta.tokenization.encoding import Encoding
from exporter.deberta.tokenization.fingerprint import token_fingerprint
from exporter.deberta.tokenization.loading import TOKENIZER_FILES, load_tokenizer, tokenizer_files
from exporter.deberta.tokenization.shipping import shipped_files, vocabulary_of
from exporter.deberta.tokenization.tokenizer import Tokenizer, check_vocabulary

__all__ = [
    "TOKENIZER_FILES",
    "Encoding",
    "Tokenizer",
    "check_vocabulary",
    "load_tokenizer",
    "shipped_files",
    "token_fingerprint",
    "tokenizer_files",
    "vocabulary_of",
]
