"""Deterministic strings that are hard for a tokenizer: `hard_strings(count, seed)`.

Used by `make_tokenizer_golden.py` and by `tokenizer_agreement.py`; the tests read the
strings stored in the golden file. Only `random.Random.random()` is drawn from, whose sequence
Python keeps fixed for a seed, and no Unicode table is read, so every Python gives the same strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

WORDS = (
    "the quick brown fox jumps over a lazy dog it's won't ain't HELLO World iPhone7 e-mail U.S.A. "
    "3.14 1,000,000 2024-05-17 50% $9.99 C++ foo_bar a/b x=y don't-care great awful movie film "
    "product camera battery really very not good bad works worked working it is was I you we they"
).split()

# Inclusive ranges of assigned letters, one per script, all assigned before Unicode 9.
SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x17F)),
    "latin_extended": ((0x180, 0x24F), (0x1E00, 0x1EFF)),
    "greek": ((0x391, 0x3A1), (0x3A3, 0x3CE), (0x1F00, 0x1F15)),
    "cyrillic": ((0x400, 0x481), (0x48A, 0x4FF)),
    "armenian": ((0x531, 0x556), (0x561, 0x587)),
    "hebrew": ((0x5D0, 0x5EA),),
    "arabic": ((0x621, 0x63A), (0x641, 0x64A), (0xFE70, 0xFE74)),
    "devanagari": ((0x904, 0x939), (0x93E, 0x94D)),
    "bengali": ((0x995, 0x9A8), (0x9BE, 0x9C4)),
    "tamil": ((0xBAE, 0xBB9), (0xBBE, 0xBC2)),
    "thai": ((0xE01, 0xE3A), (0xE40, 0xE4E)),
    "georgian": ((0x10D0, 0x10F0),),
    "ethiopic": ((0x1200, 0x1248),),
    "hangul": ((0xAC00, 0xD7A3),),
    "jamo": ((0x1100, 0x1112), (0x1161, 0x1175), (0x11A8, 0x11C2)),
    "kana": ((0x3041, 0x3096), (0x30A1, 0x30FA)),
    "halfwidth": ((0xFF65, 0xFF9F), (0xFFA1, 0xFFBE)),
    "fullwidth": ((0xFF01, 0xFF5E),),
    "han": ((0x4E00, 0x9FCC),),
    "han_extended": ((0x20000, 0x2A6D6), (0xF900, 0xFA6D)),
    "gothic": ((0x10330, 0x1034A),),
    "maths": ((0x1D400, 0x1D454), (0x1D7CE, 0x1D7FF)),
}
COMBINING = ((0x300, 0x34E), (0x591, 0x5BD), (0x64B, 0x652), (0x20D0, 0x20DC), (0xFE20, 0xFE23))
CONTROLS = ((0x00, 0x1F), (0x7F, 0x9F), (0xFFF9, 0xFFFD), (0xFDD0, 0xFDD3))
FORMATS = (
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u202e\u2060\u2066\ufeff\U000e0041"
)
SPACES = " \t\n\r\v\f\x85\u00a0\u1680\u2000\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
PUNCTUATION = (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
    "¡§«¶·»¿‐‑–—‘’“”„†•…‰′″‹›⁄⁅€™←⇒∀≠≤┌█▁◆☃♥⚡、。「」『』〜・！？，：（）؟،।"
)
COMPATIBILITY = "ﬁﬂﬀﬃﬆ①②⑳ⓐⒶ㈱㌀㎏㍿½¼⅓²³₂ªº№℃℡Ωℵ‼⁇Ǆǅĳŉſ︰﹏﹠ﷺﬡײַ\u0344\u0958\u2126\u212b"
CASING = "İıẞßΣσςǅŒÅÉЁԱᏐꭰⰀⴀǰΐΰﬃŉẖᾳᾼῼ"
EMOJI = "😀 😂 🥰 👍 👍🏽 👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 🇬🇧 🇯🇵 ❤️ ☺ ☺️ 1️⃣ #️⃣ 🤷🏿‍♀️ ✈ 🎉 🧑🏼‍🚀 💯 ♀ ⌚ 🀄 🏴󠁧󠁢󠁥󠁮󠁧󠁿".split()
SPECIALS = (
    "[CLS] [SEP] [PAD] [UNK] [MASK] [mask] [Mask] [ MASK ] [MASK [CLS][SEP] [MASK][MASK] MASK] "
    "<unk> <s> </s> [[MASK]] ［MASK］ [UNK]s".split()
)
EDGE_CASES = (
    "",
    " ",
    "   ",
    "\n",
    "\t\t",
    "\u00a0",
    "\u200b",
    "\x00",
    "\ufeff",
    "▁",
    " ▁ ▁▁ ",
    "a",
    " a",
    "a ",
    "a" * 300,
    "a " * 200,
    " " * 500 + "x" + " " * 500,
    "\n" * 50 + "x",
    "e\u0301",
    "\u0301",
    "\u0301\u0301\u0301a",
    "👨‍👩‍👧‍👦" * 10,
    "[CLS]",
    "[MASK]",
    " [MASK] ",
    "I [MASK] it.",
    "I[MASK]it.",
    "[CLS] a [SEP] b [SEP]",
    "[PAD][PAD]",
    "[UNK]",
    "ΑΣ ΑΣ.",
    "İSTANBUL",
    "...",
    "hello,world",
    "hello , world",
    "\U0010ffff",
    "\ue000",
    "一" * 100,
)


class StringMaker:
    """Draws hard strings from one seeded generator."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return int(self._random.random() * n)

    def pick(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]

    def from_ranges(self, ranges: Sequence[tuple[int, int]]) -> str:
        first, last = ranges[self.below(len(ranges))]
        return chr(first + self.below(last - first + 1))

    def word(self) -> str:
        """A word of one script, or an English one."""
        if self.below(2):
            return self.pick(WORDS)
        ranges = SCRIPTS[self.pick(tuple(SCRIPTS))]
        return "".join(self.from_ranges(ranges) for _ in range(1 + self.below(8)))

    def spaces(self) -> str:
        """One run of white space: mostly one kind, at times very long."""
        length = 1 + self.below(4) if self.below(10) else self.below(120)
        if self.below(3) == 0:
            return "".join(self.pick(SPACES) for _ in range(length))
        return self.pick(SPACES) * length

    def english(self) -> str:
        text = " ".join(self.pick(WORDS) for _ in range(1 + self.below(14)))
        return text + self.pick((".", "", "!", " ?", "...", "\n"))

    def scripts(self) -> str:
        return " ".join(self.word() for _ in range(1 + self.below(8)))

    def emoji(self) -> str:
        parts = (self.pick((self.pick(EMOJI), self.pick(WORDS))) for _ in range(1 + self.below(8)))
        return self.pick(("", " ")).join(parts)

    def combining(self) -> str:
        out = []
        for _ in range(1 + self.below(10)):
            out.append(self.pick((self.pick("aeiouAEIOUnxåあ가"), self.word())))
            out.extend(self.from_ranges(COMBINING) for _ in range(self.below(4)))
        return "".join(out)

    def controls(self) -> str:
        out = []
        for _ in range(1 + self.below(8)):
            out.append(self.pick((self.pick(WORDS), self.word())))
            out.append(self.pick((self.from_ranges(CONTROLS), self.pick(FORMATS), " ")))
        return "".join(out)

    def spaced(self) -> str:
        parts = [self.spaces() if self.below(2) else ""]
        for _ in range(1 + self.below(6)):
            parts += [self.pick(WORDS), self.spaces()]
        return "".join(parts)

    def punctuated(self) -> str:
        parts = []
        for _ in range(1 + self.below(8)):
            parts.append(self.pick((self.pick(WORDS), "", self.word())))
            parts.extend(self.pick(PUNCTUATION) for _ in range(1 + self.below(3)))
            parts.append(self.pick(("", " ")))
        return "".join(parts)

    def compatibility(self) -> str:
        parts = (self.pick((self.pick(COMPATIBILITY), self.pick(WORDS))) for _ in range(12))
        return self.pick(("", " ")).join(parts)

    def cased(self) -> str:
        parts = (self.pick((self.pick(CASING), self.pick(WORDS).upper())) for _ in range(10))
        return self.pick(("", " ")).join(parts)

    def special_tokens(self) -> str:
        parts = (self.pick((self.pick(SPECIALS), self.word())) for _ in range(1 + self.below(8)))
        return self.pick(("", " ", "  ")).join(parts)

    def random_points(self) -> str:
        """Code points anywhere, unassigned ones too, surrogates left out."""
        out = []
        for _ in range(1 + self.below(16)):
            point = self.below((0x3000, 0x11000, 0x110000)[self.below(3)])
            if not 0xD800 <= point <= 0xDFFF:
                out.append(chr(point))
        return "".join(out)

    def mixture(self) -> str:
        return "".join(self.any_part()[: 1 + self.below(12)] for _ in range(2 + self.below(5)))

    def any_part(self) -> str:
        makers: tuple[Callable[[], str], ...] = (
            self.english,
            self.scripts,
            self.emoji,
            self.combining,
            self.controls,
            self.spaced,
            self.punctuated,
            self.compatibility,
            self.cased,
            self.special_tokens,
        )
        return makers[self.below(len(makers))]()


def hard_strings(count: int, seed: int) -> list[str]:
    """`count` strings (the fixed edge cases first), the same for a seed on every Python."""
    maker = StringMaker(seed)
    kinds: tuple[Callable[[], str], ...] = (
        maker.english,
        maker.scripts,
        maker.emoji,
        maker.combining,
        maker.controls,
        maker.spaced,
        maker.punctuated,
        maker.compatibility,
        maker.cased,
        maker.special_tokens,
        maker.random_points,
        maker.mixture,
    )
    out = list(EDGE_CASES[:count])
    while len(out) < count:
        out.append(kinds[len(out) % len(kinds)]())
    return out
