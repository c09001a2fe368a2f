"""A hash of what a tokenizer does, whatever the form of its files."""

from __future__ import annotations

import hashlib

from exporter.deberta.tokenization.tokenizer import Tokenizer

_TEXTS = (
    "",
    "A joy from start to end.",
    "I want my money back, and the [SEP] and the [MASK] too!",
    "  two  spaces,\ta tab\nand a line\u2028end\u00a0 ",
    "Größe, ÉCOLE, ﬁne, ｃａｍｅｒａ, e\u0301 and \u200bnothing",
    "1,000.50 $ is 99.9% of it's worth; don't (or do) [x] {y} <z> a.b_c-d/e\\f",
    "日本語のテキスト 한국어 العربية हिन्दी 👍🏽 👨‍👩‍👧",
    "antidisestablishmentarianism Donaudampfschifffahrtsgesellschaft",
)
"""What normalizers, splitting and special tokens treat in different ways."""
_WHOLE = 1 << 20
"""Tokens that none of them reaches; how long a model is, is no part of its tokenizer."""


def token_fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256, in hexadecimal, of the whole vocabulary and of the ids of some texts.

    Two tokenizers with one fingerprint have the same token for each id, and gave the same ids and
    token types to texts, pairs, and pairs that were cut.
    """
    digest = hashlib.sha256()
    for index in range(tokenizer.vocab_size):
        digest.update(
            f"{tokenizer.convert_ids_to_tokens([index])}\0".encode(errors="surrogatepass")
        )
    for text, pair in zip(_TEXTS, (None, *_TEXTS[:-1]), strict=True):
        for longest in (_WHOLE, 8):
            found = tokenizer.encode(text, pair, max_length=longest)
            digest.update(f"{found.input_ids} {found.token_type_ids}\n".encode())
    return digest.hexdigest()
