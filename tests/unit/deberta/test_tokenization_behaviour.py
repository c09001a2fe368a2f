"""Options, edge cases and bad input of the tokenizers, with no other tokenizer to compare with."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from exporter.deberta.tokenization import (
    Tokenizer,
    check_vocabulary,
    load_tokenizer,
    tokenizer_files,
)
from exporter.deberta.tokenization.truncation import kept_lengths
from exporter.errors import InputError

GOLDEN = Path(__file__).parents[2] / "golden" / "tokenizer"
KINDS: tuple[Literal["fast", "sentencepiece"], ...] = ("fast", "sentencepiece")
CLS, SEP, PAD, UNK, MASK = 1, 2, 0, 3, 1600


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint's tokenizer files of both kinds."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    shutil.copy(GOLDEN / "spm.model", folder)
    content = gzip.decompress((GOLDEN / "tokenizer.json.gz").read_bytes())
    (folder / "tokenizer.json").write_bytes(content)
    configure(folder)
    return folder


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    return load_tokenizer(folder, kind=request.param)


def configure(folder: Path, **fields: Any) -> None:
    config = {"do_lower_case": False, "vocab_type": "spm", **fields}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_kinds_and_files(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    names = [path.name for path in tokenizer_files(folder)]
    assert names == ["spm.model", "tokenizer.json", "tokenizer_config.json"]
    assert load_tokenizer(folder).kind == "fast"
    assert load_tokenizer(folder, kind="sentencepiece").kind == "sentencepiece"
    (folder / "tokenizer.json").unlink()
    assert load_tokenizer(folder).kind == "sentencepiece"
    assert load_tokenizer(folder).source_files == (
        folder / "spm.model",
        folder / "tokenizer_config.json",
    )


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
    assert tokenizer.convert_tokens_to_ids(["[MASK]", "▁the", "nonsense"])[::2] == [MASK, UNK]
    assert tokenizer.get_special_tokens_mask([*ids, 4, 900]) == [1, 1, 1, 1, 1, 0, 0]
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


def test_empty_batch(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode_batch([])
    assert batch.input_ids.shape == (0, 0)
    assert batch.encodings == ()


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
    assert tokenizer.get_special_tokens_mask(encoding.input_ids)[at] == 1


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


# --- truncation and padding ---------------------------------------------------------------------


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
        kept = kept_lengths(first, second, budget, "longest_first", "sentencepiece")
        assert kept == drop_one_by_one(first, second, budget)
        fast = kept_lengths(first, second, budget, "longest_first", "fast")
        assert None not in fast
        assert sum(x or 0 for x in fast) == min(first + second, budget)
        assert max(abs(a - (b or 0)) for a, b in zip(kept, fast, strict=True) if a is not None) <= 1


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
    configure(folder, model_max_length=6, padding_side="left", truncation_side="left")
    tokenizer = load_tokenizer(folder, kind=kind)
    assert tokenizer.model_max_length == 6
    text = "a good film with a bad ending"
    whole = tokenizer.encode(text, truncation="do_not_truncate")
    assert tokenizer.encode(text).input_ids == (CLS, *whole.input_ids[-5:-1], SEP)
    assert tokenizer.encode(text).offsets[1:-1] == whole.offsets[-5:-1]
    assert len(tokenizer.encode(text, max_length=8)) == 8
    batch = tokenizer.encode_batch([text, ""], padding="max_length")
    assert batch.input_ids.shape == (2, 6)
    assert batch.input_ids[1].tolist() == [PAD] * 4 + [CLS, SEP]
    configure(folder, model_max_length=1000000000000000019884624838656)
    assert load_tokenizer(folder, kind=kind).model_max_length is None


def test_padding(tokenizer: Tokenizer) -> None:
    batch = tokenizer.encode_batch(["", ("a good film", "bad")], pad_to_multiple_of=8)
    longest = len(batch.encodings[1])
    length = -(-longest // 8) * 8
    for name in ("input_ids", "attention_mask", "token_type_ids", "special_tokens_mask"):
        array = getattr(batch, name)
        assert array.shape == (2, length)
        assert array.dtype == np.int64
        fill = {"input_ids": PAD, "special_tokens_mask": 1}.get(name, 0)
        for row, encoding in zip(array, batch.encodings, strict=True):
            assert tuple(row[: len(encoding)]) == getattr(encoding, name)
            assert (row[len(encoding) :] == fill).all()
    left = tokenizer.encode_batch(["", "a good film"], padding_side="left")
    assert left.attention_mask[0].tolist()[-3:] == [0, 1, 1]
    assert left.attention_mask.sum() == sum(len(e) for e in left.encodings)


def test_encodings_do_not_depend_on_the_batch(tokenizer: Tokenizer) -> None:
    texts: list[str | tuple[str, str]] = ["", "a", ("b c", "d"), "e " * 50, ("", "")]
    batch = tokenizer.encode_batch(texts, max_length=12)
    for text, encoding in zip(texts, batch.encodings, strict=True):
        pair = (text,) if isinstance(text, str) else text
        assert tokenizer.encode(*pair, max_length=12) == encoding


def test_round_trip(tokenizer: Tokenizer) -> None:
    for text in ("a good film.", "The camera works very well, doesn't it?"):
        ids = tokenizer.encode(text).input_ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.decode([]) == ""
    # Models have more rows than there are tokens; their ids must not end a program.
    assert tokenizer.convert_ids_to_tokens([5000]) == ["[UNK]"]
    assert tokenizer.decode([5000]) == ""


# --- saving and the vocabulary check ------------------------------------------------------------


def test_save_vocabulary_copies_what_was_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    paths = tokenizer.save_vocabulary(tmp_path / "out")
    assert {p.name for p in paths} == {p.name for p in tokenizer.source_files}
    for path, source in zip(paths, tokenizer.source_files, strict=True):
        assert path.read_bytes() == source.read_bytes()
    again = load_tokenizer(tmp_path / "out")
    assert again.kind == tokenizer.kind
    assert again.encode("a film [MASK]") == tokenizer.encode("a film [MASK]")


def test_save_vocabulary_over_itself_and_errors(tokenizer: Tokenizer, tmp_path: Path) -> None:
    before = [p.read_bytes() for p in tokenizer.source_files]
    tokenizer.save_vocabulary(tokenizer.source_files[0].parent)
    assert [p.read_bytes() for p in tokenizer.source_files] == before
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file"):
        tokenizer.save_vocabulary(tmp_path / "file" / "below")
    tokenizer.source_files[0].unlink()
    with pytest.raises(InputError, match="cannot be saved"):
        tokenizer.save_vocabulary(tmp_path / "out")


def test_check_vocabulary(tokenizer: Tokenizer) -> None:
    check_vocabulary(tokenizer, MASK + 1)
    check_vocabulary(tokenizer, MASK + 100)
    with pytest.raises(InputError, match=r"1600 \('\[MASK\]'\).*1600 rows"):
        check_vocabulary(tokenizer, MASK)


# --- added tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["decoder", "older"])
def test_added_tokens(folder: Path, kind: Literal["fast", "sentencepiece"], style: str) -> None:
    """Tokens given by `added_tokens_decoder`, or by the two files that came before it."""
    if style == "decoder":
        fields = {"lstrip": False, "rstrip": True, "single_word": False, "normalized": False}
        decoder = {
            str(i): {"content": content, "special": True, **fields}
            for i, content in [(MASK, "[MASK]"), (MASK + 1, "<ent>")]
        }
        configure(folder, added_tokens_decoder=decoder, additional_special_tokens=["<ent>"])
    else:
        (folder / "added_tokens.json").write_text(json.dumps({"[MASK]": MASK, "<ent>": MASK + 1}))
        special = {"additional_special_tokens": ["<ent>"], "mask_token": "[MASK]"}
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    tokenizer = load_tokenizer(folder, kind=kind)
    assert tokenizer.vocab_size == MASK + 2
    encoding = tokenizer.encode("a<ent> b")
    assert MASK + 1 in encoding.input_ids
    assert encoding.offsets[encoding.input_ids.index(MASK + 1)][0] == 1
    assert tokenizer.get_special_tokens_mask([MASK + 1]) == [1]
    assert "<ent>" not in tokenizer.decode(encoding.input_ids)
    assert "<ent>" in tokenizer.decode(encoding.input_ids, skip_special_tokens=False)
    check_vocabulary(tokenizer, MASK + 2)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.encode(3), "text must be a str, got int"),
        (lambda t: t.encode(b"a"), "text must be a str, got bytes"),
        (lambda t: t.encode("a", 3), "pair must be a str, got int"),
        (lambda t: t.encode("ab\ud800"), r"lone surrogate \(U\+D800\) at character 2"),
        (lambda t: t.tokenize("\udfff"), "lone surrogate"),
        (lambda t: t.convert_tokens_to_ids(["\udfff"]), "lone surrogate"),
        (lambda t: t.encode("a", max_length=1), "no room for the 2 special tokens"),
        (lambda t: t.encode("a", "b", max_length=2), "no room for the 3 special tokens"),
        (lambda t: t.encode("a", max_length=-1), "max_length must be"),
        (lambda t: t.encode("a", max_length=2.5), "max_length must be"),
        (lambda t: t.encode("a", truncation="left"), "truncation must be one of"),
        (lambda t: t.encode("a", truncation="only_second"), "needs a pair"),
        (lambda t: t.encode("a", "b " * 9, truncation="only_first", max_length=9), "only_first"),
        (lambda t: t.encode("a " * 9, "b", truncation="only_second", max_length=9), "only_second"),
        (lambda t: t.encode_batch("abc"), "texts must be a sequence"),
        (lambda t: t.encode_batch(["a", None]), r"texts\[1\] must be a str"),
        (lambda t: t.encode_batch([("a", "b", "c")]), r"texts\[0\] must be a str or a pair"),
        (lambda t: t.encode_batch(["a", ("b", "\ud834")]), r"texts\[1\]\[1\] has a lone"),
        (lambda t: t.encode_batch(["", ("a", "b")], max_length=2), r"texts\[1\]: max_length 2"),
        (lambda t: t.encode_batch(["a"], padding="max_length"), "needs max_length"),
        (lambda t: t.encode_batch(["a"], padding="none"), "padding must be"),
        (lambda t: t.encode_batch(["a"], padding_side="top"), "padding_side must be"),
        (lambda t: t.encode_batch(["a"], pad_to_multiple_of=0), "pad_to_multiple_of"),
        (lambda t: t.decode([1, -1]), "must not be negative"),
    ],
)
def test_bad_arguments(tokenizer: Tokenizer, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(tokenizer)


def write_json(name: str, value: Any) -> Any:
    return lambda folder: (folder / name).write_text(json.dumps(value))


def change_fast_file(change: Any) -> Any:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return apply


def truncate(name: str) -> Any:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[:1000])

    return apply


CONFIG = "tokenizer_config.json"


@pytest.mark.parametrize(
    ("kind", "damage", "message"),
    [
        ("fast", lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        ("sentencepiece", lambda f: (f / "spm.model").unlink(), "has no spm.model"),
        ("auto", lambda f: shutil.rmtree(f), "no such folder"),
        ("automatic", lambda f: None, "kind must be"),
        ("fast", truncate("tokenizer.json"), "tokenizer.json: is not a valid"),
        ("sentencepiece", truncate("tokenizer.json"), "tokenizer.json: is not valid JSON"),
        ("fast", write_json("tokenizer.json", {}), "tokenizer.json: is not a valid"),
        ("fast", write_json("tokenizer.json", []), "tokenizer.json: "),
        (
            "fast",  # the library panics
            change_fast_file(
                lambda c: c["normalizer"]["normalizers"][1].update(precompiled_charsmap="AAAA")
            ),
            "tokenizer.json: is not a valid",
        ),
        ("sentencepiece", truncate("spm.model"), "spm.model: is not a SentencePiece model"),
        ("sentencepiece", lambda f: (f / "spm.model").write_bytes(b""), "not a SentencePiece"),
        ("sentencepiece", lambda f: (f / "spm.model").write_text("junk" * 99), "not a Sentence"),
        ("fast", lambda f: (f / CONFIG).write_text("{"), f"{CONFIG}: is not valid JSON"),
        ("fast", lambda f: (f / CONFIG).write_bytes(b"\xff{}"), f"{CONFIG}: is not valid JSON"),
        ("fast", write_json(CONFIG, [1]), f"{CONFIG}: holds a JSON list"),
        ("fast", write_json(CONFIG, {"cls_token": 3}), "cls_token must be a token's text"),
        ("fast", write_json(CONFIG, {"cls_token": "<s>"}), "has no cls_token '<s>'"),
        ("sentencepiece", write_json(CONFIG, {"pad_token": "<pad>"}), "has no pad_token '<pad>'"),
        ("sentencepiece", write_json(CONFIG, {"unk_token": "<unk>"}), "has no unk_token '<unk>'"),
        ("fast", write_json(CONFIG, {"model_max_length": 0}), "model_max_length must be"),
        ("fast", write_json(CONFIG, {"model_max_length": "x"}), "model_max_length must be"),
        ("fast", write_json(CONFIG, {"do_lower_case": "yes"}), "do_lower_case must be"),
        ("fast", write_json(CONFIG, {"padding_side": "up"}), "padding_side must be"),
        ("fast", write_json(CONFIG, {"added_tokens_decoder": []}), "added_tokens_decoder must"),
        (
            "fast",
            write_json(CONFIG, {"added_tokens_decoder": {"x": {"content": "<e>"}}}),
            "expected an integer",
        ),
        (
            "fast",
            write_json(CONFIG, {"added_tokens_decoder": {"9000": {"content": "<e>"}}}),
            "different checkpoints",
        ),
        (
            "sentencepiece",
            write_json(
                CONFIG, {"added_tokens_decoder": {"1600": {"content": "x", "single_word": True}}}
            ),
            "single_word",
        ),
        ("sentencepiece", write_json("added_tokens.json", {"[MASK]": "x"}), "added_tokens.json"),
        ("sentencepiece", write_json("special_tokens_map.json", []), "special_tokens_map.json"),
        (
            "fast",
            change_fast_file(lambda c: c["post_processor"]["single"].pop()),
            "post_processor does not make",
        ),
        (
            "fast",
            change_fast_file(
                lambda c: c["post_processor"]["pair"][-1]["SpecialToken"].update(type_id=0)
            ),
            "post_processor does not make",
        ),
    ],
)
def test_bad_files(folder: Path, kind: Any, damage: Any, message: str) -> None:
    damage(folder)
    with pytest.raises(InputError, match=message) as raised:
        load_tokenizer(folder, kind=kind)
    assert str(raised.value).count("\n") <= 1


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no tokenizer"):
        load_tokenizer(tmp_path)


def test_settings_of_the_fast_file_do_not_act(folder: Path) -> None:
    """Training scripts leave truncation and padding in tokenizer.json."""
    change_fast_file(
        lambda c: c.update(
            truncation={
                "direction": "Right",
                "max_length": 4,
                "strategy": "LongestFirst",
                "stride": 0,
            },
            padding={
                "strategy": {"Fixed": 64},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "[PAD]",
            },
        )
    )(folder)
    encoding = load_tokenizer(folder).encode("a good film with a bad ending")
    assert 6 < len(encoding) < 64


def test_transformers_is_not_imported() -> None:
    code = (
        "import sys, exporter.deberta.tokenization as t\n"
        "assert not {'transformers', 'torch', 'tokenizers', 'sentencepiece'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
