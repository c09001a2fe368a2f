"""Both tokenizers against transformers 4.57 on the 4,000 stored strings.

`tests/golden/make_tokenizer_golden.py` made the files; transformers 5 has no SentencePiece
tokenizer for DeBERTa-v2, so version 4's can only be compared with through them.
"""

from __future__ import annotations

import gzip
import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from exporter.deberta.tokenization import Tokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[3] / "golden" / "tokenizer"
VARIANTS = {
    "plain": {},
    "lower": {"do_lower_case": True},
    "punct": {"split_by_punct": True},
    "both": {"do_lower_case": True, "split_by_punct": True},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(gzip.decompress((GOLDEN / "golden.json.gz").read_bytes()))
    return content


def ints(row: str) -> list[int]:
    return [int(x) for x in row.split()]


def spm_checkpoint(folder: Path, options: dict[str, bool], model: str = "spm.model") -> Path:
    shutil.copy(GOLDEN / model, folder / "spm.model")
    config = {"do_lower_case": False, "vocab_type": "spm", **options}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def fast_checkpoint(folder: Path, options: dict[str, bool]) -> Path:
    """The committed tokenizer.json with the steps that transformers 4 adds for the options."""
    content = json.loads(gzip.decompress((GOLDEN / "tokenizer.json.gz").read_bytes()))
    if options.get("do_lower_case"):
        content["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    if options.get("split_by_punct"):
        punctuation = {"type": "Punctuation", "behavior": "Isolated"}
        content["pre_tokenizer"]["pretokenizers"].insert(0, punctuation)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def is_old(text: str) -> bool:
    """Whether Unicode 3.2, which every Python carries, has all the characters."""
    return all(unicodedata.ucd_3_2_0.category(char) != "Cn" for char in text)


def tokens_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The tokens of a text, those that the vocabulary lacks as `[UNK]`."""
    ids = tokenizer.encode(text, add_special_tokens=False).input_ids
    return tokenizer.convert_ids_to_tokens(ids)


def different(tokenizer: Tokenizer, strings: list[str], expected: list[list[int]]) -> list[str]:
    """The strings on which the tokenizer does not give the expected ids."""
    assert len(strings) >= len(expected) >= 1500
    strings = strings[: len(expected)]
    rows = zip(strings, expected, strict=True)
    return [text for text, ids in rows if list(tokenizer.encode(text).input_ids) != ids]


@pytest.mark.parametrize("variant", VARIANTS)
def test_sentencepiece_gives_the_slow_tokenizers_ids(
    golden: dict[str, Any], tmp_path: Path, variant: str
) -> None:
    tokenizer = load_tokenizer(spm_checkpoint(tmp_path, VARIANTS[variant]))
    assert tokenizer.kind == "sentencepiece"
    expected = [ints(row) for row in golden["slow"][variant]]
    found = different(tokenizer, golden["strings"], expected)
    if variant != "plain":
        # What is punctuation or upper case is Python's own table, there and here: characters that
        # are newer than every Python's table may differ from the Python that made the file.
        assert sum(is_old(text) for text in golden["strings"][: len(expected)]) > 1000
        found = [text for text in found if is_old(text)]
    assert found == []


def test_sentencepiece_without_dummy_prefix_and_normaliser(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(spm_checkpoint(tmp_path, {}, "identity.model"))
    expected = [ints(row) for row in golden["slow"]["identity"]]
    assert different(tokenizer, golden["strings"], expected) == []
    # The model keeps white space and puts no mark before the text.
    assert tokens_of(tokenizer, "  a")[0] == "▁"
    assert not tokens_of(tokenizer, "a")[0].startswith("▁")


@pytest.mark.parametrize("variant", VARIANTS)
def test_fast_gives_the_fast_tokenizers_ids(
    golden: dict[str, Any], tmp_path: Path, variant: str
) -> None:
    tokenizer = load_tokenizer(fast_checkpoint(tmp_path, VARIANTS[variant]))
    assert tokenizer.kind == "fast"
    exceptions = golden["fast"][variant]
    assert exceptions, "the two tokenizers of transformers do differ on some strings"
    expected = [ints(exceptions.get(str(i), row)) for i, row in enumerate(golden["slow"][variant])]
    assert different(tokenizer, golden["strings"], expected) == []


def test_fast_gives_the_fast_tokenizers_offsets(golden: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(fast_checkpoint(tmp_path, {}))
    for text, row in zip(golden["strings"], golden["fast_offsets"], strict=False):
        flat = [x for span in tokenizer.encode(text).offsets for x in span]
        assert flat == ints(row), ascii(text)


def test_sentencepiece_tokens_and_decoding(golden: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(spm_checkpoint(tmp_path, {}))
    for i, (tokens, decoded) in enumerate(
        zip(golden["slow_tokens"], golden["slow_decoded"], strict=True)
    ):
        text = golden["strings"][i]
        encoding = tokenizer.encode(text, add_special_tokens=False)
        found = tokenizer.convert_ids_to_tokens(encoding.input_ids)
        for ours, theirs, (start, end) in zip(found, tokens, encoding.offsets, strict=True):
            if ours == "[UNK]":
                # The golden token is the unknown characters, of which a token may hold a part.
                parts = (text[start:end].strip(" "), theirs.strip("▁"))
                mine, wanted = (unicodedata.normalize("NFKC", part) for part in parts)
                assert wanted and (mine in wanted or wanted in mine), ascii(text)
            else:
                assert ours == theirs
        ids = ints(golden["slow"]["plain"][i])
        plain, with_specials = decoded
        assert tokenizer.decode(ids) == plain
        assert tokenizer.decode(ids, skip_special_tokens=False) == with_specials


def test_sentencepiece_with_added_tokens(golden: dict[str, Any], tmp_path: Path) -> None:
    """Special or not, normalised or not, taking white space on either side; lower case on."""
    added = golden["added"]
    tokenizer = load_tokenizer(spm_checkpoint(tmp_path, added["config"]))
    used = set()
    for text, row, decoded in zip(added["strings"], added["ids"], added["decoded"], strict=True):
        ids = ints(row)
        used |= set(ids)
        assert list(tokenizer.encode(text).input_ids) == ids, ascii(text)
        for skip, expected in zip((True, False), decoded, strict=True):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == expected, ascii(text)
    added_ids = {int(i) for i in added["config"]["added_tokens_decoder"]}
    assert len(added_ids) == 9
    assert added_ids <= used | {0, tokenizer.unk_token_id}


def test_sentencepiece_pairs_and_truncation(golden: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(spm_checkpoint(tmp_path, {}))
    strings = golden["strings"]
    truncated = 0
    for case in golden["pairs"]:
        encoding = tokenizer.encode(
            strings[case["first"]],
            strings[case["second"]],
            truncation=case["truncation"],
            max_length=case["max_length"],
        )
        for name in ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask"):
            assert list(getattr(encoding, name)) == case[name], (name, case)
        truncated += encoding.truncated
    assert len(golden["pairs"]) > 300
    assert truncated > 100


def test_sentencepiece_offsets_lie_in_the_text_and_in_order(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(spm_checkpoint(tmp_path, VARIANTS["both"]))
    for text in golden["strings"][:1500]:
        encoding = tokenizer.encode(text)
        assert encoding.offsets[0] == encoding.offsets[-1] == (0, 0)
        previous = 0
        for start, end in encoding.offsets[1:-1]:
            assert 0 <= start < end <= len(text), ascii(text)
            assert start >= previous, ascii(text)
            previous = start


def test_sentencepiece_offsets_are_the_fast_ones_on_plain_text(
    golden: dict[str, Any], tmp_path: Path
) -> None:
    """Equal on ordinary text; runs of spaces, and spaces at added tokens, count differently."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    slow = load_tokenizer(spm_checkpoint(tmp_path / "a", {}))
    fast = load_tokenizer(fast_checkpoint(tmp_path / "b", {}))
    compared = 0
    for text in golden["strings"]:
        if not (text.isascii() and text.isprintable()) or "  " in text or "[" in text:
            continue
        ours, theirs = slow.encode(text), fast.encode(text)
        if ours.input_ids == theirs.input_ids:
            assert ours.offsets == theirs.offsets, text
            compared += 1
    assert compared > 300
