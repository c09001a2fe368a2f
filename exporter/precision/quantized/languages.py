"""Whether a vocabulary, or a text, has letters beyond the Latin ones."""

from __future__ import annotations

import unicodedata

from exporter.deberta.tokenization import Tokenizer

MANY_SCRIPTS = 0.2
"""Share of a vocabulary's pieces in other scripts from which it is meant for many languages."""
_SAMPLE = 5000


def has_many_scripts(tokenizer: Tokenizer) -> bool:
    """Whether at least `MANY_SCRIPTS` of the pieces, every so manyth looked at, are not Latin."""
    step = max(1, tokenizer.vocab_size // _SAMPLE)
    pieces = tokenizer.convert_ids_to_tokens(range(0, tokenizer.vocab_size, step))
    return sum(map(is_other_script, pieces)) >= MANY_SCRIPTS * len(pieces)


def is_other_script(text: str) -> bool:
    """Whether a text has a letter that is not Latin."""
    return any(
        letter.isalpha() and not unicodedata.name(letter, "").startswith(("LATIN", "MODIFIER"))
        for letter in text
        if not letter.isascii()
    )
