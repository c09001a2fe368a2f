"""Options, edge cases and bad input of the tokenizers, with no other tokenizer to compare with."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
from support.tokenizer_files import CLS, KINDS, MASK, PAD, SEP, UNK, configure

from exporter.deberta.tokenization import Tokenizer, load_tokenizer
from exporter.deberta.tokenization.encoding import kept_lengths
from exporter.errors import InputError


def test_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == MASK + 1
    ids = [
        tokenizer.pad_token_id,
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.unk_token_id,
        tokenizer.mask_token_id,
    ]
    assert ids == [PAD, CLS, SEP, UNK, MASK]
    assert tokenizer.convert_ids_to_tokens(ids) == ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    assert tokenizer.model_max_length is None


def test_empty_text(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode("")
    assert encoding.input_ids == (CLS, SEP)
    assert encoding.offsets == ((0, 0), (0, 0))
    assert encoding.special_tokens_mask == (1, 1)
    assert encoding.sequence_ids == (None, None)
    assert not encoding.truncated
    assert tokenizer.encode("", "").input_ids == (CLS, SEP, SEP)
    assert tokenizer.encode("", "").token_type_ids == (0, 0, 1)
    assert tokenizer.encode("", add_special_tokens=False).input_ids == ()


def test_pair(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("a good film"), tokenizer.encode("very bad")
    encoding = tokenizer.encode("a good film", "very bad")
    n, m = len(first), len(second) - 1
    assert encoding.input_ids == first.input_ids + second.input_ids[1:]
    assert encoding.token_type_ids == (0,) * n + (1,) * m
    assert encoding.sequence_ids == (None, *(0,) * (n - 2), None, *(1,) * (m - 1), None)
    assert encoding.offsets == first.offsets + second.offsets[1:]
    bare = tokenizer.encode("a good film", "very bad", add_special_tokens=False)
    assert bare.input_ids == first.input_ids[1:-1] + second.input_ids[1:-1]
    assert bare.token_type_ids == (0,) * (n - 2) + (1,) * (m - 1)
    assert sum(bare.special_tokens_mask) == 0


def test_mask_in_the_text_is_text(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode("a [MASK] film")
    at = encoding.input_ids.index(MASK)
    assert encoding.special_tokens_mask[at] == 0
    assert encoding.sequence_ids[at] == 0
    assert encoding.offsets[at] == (2, 8)


def test_offsets_cover_the_text(tokenizer: Tokenizer) -> None:
    text = "The camera's battery — déjà vu 世界 👍 works"
    spans = tokenizer.encode(text).offsets[1:-1]
    covered = {i for start, end in spans for i in range(start, end)}
    assert covered >= {i for i, char in enumerate(text) if char != " "}
    ids = tokenizer.encode(text).input_ids[1:-1]
    words = dict(zip(tokenizer.convert_ids_to_tokens(ids), spans, strict=True))
    for token, (start, end) in words.items():
        if token not in ("[UNK]", "▁"):
            assert text[start:end].strip() == token.strip("▁")


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_when_lower_casing_lengthens_the_text(
    folder: Path, kind: Literal["fast", "sentencepiece"]
) -> None:
    configure(folder, do_lower_case=True)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder, kind=kind)
    assert tokenizer.do_lower_case
    text = "İİİ Camera"  # "İ" is two characters in lower case
    encoding = tokenizer.encode(text)
    start = min(s for s, _ in encoding.offsets[1:-1] if s >= 3)
    assert text[start : encoding.offsets[-2][1]].strip() == "Camera"
    assert (
        tokenizer.encode("[MASK] CAMERA").input_ids == tokenizer.encode("[MASK] camera").input_ids
    )


@pytest.mark.parametrize("kind", KINDS)
def test_split_by_punct(folder: Path, kind: Literal["fast", "sentencepiece"]) -> None:
    assert not load_tokenizer(folder, kind=kind).split_by_punct
    configure(folder, split_by_punct=True)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"]["pretokenizers"].insert(
        0, {"type": "Punctuation", "behavior": "Isolated"}
    )
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(folder, kind=kind)
    assert tokenizer.split_by_punct
    text = "it's good,bad"
    encoding = tokenizer.encode(text)
    for start, end in encoding.offsets[1:-1]:
        word = text[start:end].strip()
        assert word in ("'", ",") or not set(word) & set("',"), word


def test_warning_when_the_configuration_contradicts_the_fast_file(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configure(folder, do_lower_case=True)
    assert not load_tokenizer(folder).do_lower_case
    assert "do_lower_case=False" in caplog.text


def drop_one_by_one(first: int, second: int, budget: int) -> tuple[int, int]:
    """The definition: drop a token of the longer text, of the second on a draw, until it fits."""
    while first + second > budget:
        if first > second:
            first -= 1
        else:
            second -= 1
    return first, second


def test_longest_first_is_dropping_one_by_one() -> None:
    for first, second, budget in product(range(9), range(9), range(18)):
        kept = kept_lengths([first, second], budget, "longest_first", "sentencepiece")
        assert tuple(kept) == drop_one_by_one(first, second, budget)
        fast = kept_lengths([first, second], budget, "longest_first", "fast")
        assert sum(fast) == min(first + second, budget)
        assert max(abs(a - b) for a, b in zip(kept, fast, strict=True)) <= 1


def test_truncation_of_one_text(tokenizer: Tokenizer) -> None:
    whole = tokenizer.encode("a good film with a bad ending")
    for length in range(2, len(whole) + 2):
        encoding = tokenizer.encode("a good film with a bad ending", max_length=length)
        assert len(encoding) == min(length, len(whole))
        assert encoding.input_ids[:-1] == whole.input_ids[: len(encoding) - 1]
        assert encoding.input_ids[-1] == SEP
        assert encoding.truncated == (length < len(whole))
    untouched = tokenizer.encode(
        "a good film with a bad ending", truncation="do_not_truncate", max_length=3
    )
    assert untouched == whole


@pytest.mark.parametrize("kind", KINDS)
def test_limits_of_the_configuration(folder: Path, kind: Literal["fast", "sentencepiece"]) -> None:
    configure(folder, model_max_length=6, truncation_side="left")
    tokenizer = load_tokenizer(folder, kind=kind)
    assert tokenizer.model_max_length == 6
    text = "a good film with a bad ending"
    whole = tokenizer.encode(text, truncation="do_not_truncate")
    assert tokenizer.encode(text).input_ids == (CLS, *whole.input_ids[-5:-1], SEP)
    assert tokenizer.encode(text).offsets[1:-1] == whole.offsets[-5:-1]
    assert len(tokenizer.encode(text, max_length=8)) == 8
    configure(folder, model_max_length=1000000000000000019884624838656)
    assert load_tokenizer(folder, kind=kind).model_max_length is None


def test_round_trip(tokenizer: Tokenizer) -> None:
    for text in ("a good film.", "The camera works very well, doesn't it?"):
        ids = tokenizer.encode(text).input_ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.decode([]) == ""
    # Models have more rows than there are tokens; their ids must not end a program.
    assert tokenizer.convert_ids_to_tokens([5000]) == ["[UNK]"]
    assert tokenizer.decode([5000]) == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(3), "text must be a str, got int"),
        (lambda t: t.encode(b"a"), "text must be a str, got bytes"),
        (lambda t: t.encode("a", 3), "pair must be a str, got int"),
        (lambda t: t.encode("ab\ud800"), r"lone surrogate \(U\+D800\) at character 2"),
        (lambda t: t.encode("a", "\udfff"), r"pair has a lone surrogate"),
        (lambda t: t.encode("a", max_length=1), "no room for the 2 special tokens"),
        (lambda t: t.encode("a", "b", max_length=2), "no room for the 3 special tokens"),
        (lambda t: t.encode("a", max_length=-1), "max_length must be"),
        (lambda t: t.encode("a", max_length=2.5), "max_length must be"),
        (lambda t: t.encode("a", truncation="left"), "truncation must be one of"),
        (lambda t: t.encode("a", truncation="only_second"), "needs a pair"),
        (lambda t: t.encode("a", "b " * 9, truncation="only_first", max_length=9), "only_first"),
        (lambda t: t.encode("a " * 9, "b", truncation="only_second", max_length=9), "only_second"),
        (lambda t: t.decode([1, -1]), "must not be negative"),
    ],
)
def test_bad_arguments(tokenizer: Tokenizer, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(tokenizer)
