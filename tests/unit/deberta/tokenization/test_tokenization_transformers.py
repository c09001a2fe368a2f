"""The fast tokenizer against transformers 5, live."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tokenization import Tokenizer, load_tokenizer
from exporter.inputs.encode import TextEncoder, collate
from exporter.model.task import Task

transformers = pytest.importorskip("transformers")

GOLDEN = Path(__file__).parents[3] / "golden" / "tokenizer"


@pytest.fixture(scope="module")
def strings() -> list[str]:
    content = json.loads(gzip.decompress((GOLDEN / "golden.json.gz").read_bytes()))
    return list(content["strings"])


@pytest.fixture(scope="module")
def v4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as transformers 4 leaves it."""
    folder = tmp_path_factory.mktemp("v4")
    shutil.copy(GOLDEN / "spm.model", folder)
    content = gzip.decompress((GOLDEN / "tokenizer.json.gz").read_bytes())
    (folder / "tokenizer.json").write_bytes(content)
    config = {"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text('{"model_type": "deberta-v2"}')
    return folder


@pytest.fixture(
    scope="module",
    params=[{}, {"do_lower_case": True}, {"split_by_punct": True}, {"model_max_length": 40}],
    ids=lambda options: "+".join(options) or "plain",
)
def v5(
    request: pytest.FixtureRequest, v4_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Tokenizer]:
    """transformers 5's tokenizer with some options, and ours on the folder that it saves."""
    folder = tmp_path_factory.mktemp("v5")
    theirs = transformers.AutoTokenizer.from_pretrained(v4_folder, **request.param)
    theirs.save_pretrained(folder)
    ours = load_tokenizer(folder)
    assert ours.kind == "fast"
    for name, value in request.param.items():
        assert getattr(ours, name) == value
    return transformers.AutoTokenizer.from_pretrained(folder), ours


def ids_of(ours: Tokenizer, text: str) -> list[int]:
    """The whole text's ids, without special tokens around them."""
    options: dict[str, Any] = {"add_special_tokens": False, "truncation": "do_not_truncate"}
    return list(ours.encode(text, **options).input_ids)


def check_equal(theirs: Any, ours: Tokenizer, strings: list[str]) -> None:
    made = theirs(
        strings, return_offsets_mapping=True, return_special_tokens_mask=True, truncation=False
    )
    for i, text in enumerate(strings):
        encoding = ours.encode(text, truncation="do_not_truncate")
        assert list(encoding.input_ids) == made["input_ids"][i], ascii(text)
        assert list(encoding.offsets) == made["offset_mapping"][i], ascii(text)
        assert list(encoding.attention_mask) == made["attention_mask"][i]
        assert list(encoding.token_type_ids) == made["token_type_ids"][i]
        assert list(encoding.special_tokens_mask) == made["special_tokens_mask"][i]
        assert list(encoding.sequence_ids) == made.sequence_ids(i)


def test_same_as_version_5_on_the_folder_that_it_saves(
    v5: tuple[Any, Tokenizer], strings: list[str]
) -> None:
    check_equal(*v5, strings)


def test_same_as_the_generic_class_on_version_4s_file(v4_folder: Path, strings: list[str]) -> None:
    file = str(v4_folder / "tokenizer.json")
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "cls", "sep", "unk", "mask")}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=file, **names)
    made = theirs(strings, return_offsets_mapping=True)
    ours = load_tokenizer(v4_folder)
    batch = [ours.encode(text) for text in strings]
    assert [list(e.input_ids) for e in batch] == made["input_ids"]
    assert [list(e.offsets) for e in batch] == made["offset_mapping"]


def test_same_as_version_5_after_it_saves_a_folder_with_only_spm_model(
    v4_folder: Path, tmp_path: Path, strings: list[str]
) -> None:
    (tmp_path / "hub").mkdir()
    for name in ("spm.model", "config.json"):
        shutil.copy(v4_folder / name, tmp_path / "hub")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")
    theirs.save_pretrained(tmp_path / "saved")
    check_equal(theirs, load_tokenizer(tmp_path / "saved"), strings)


def test_version_5_ignores_the_normaliser_of_version_4s_file(
    v4_folder: Path, strings: list[str]
) -> None:
    """The known difference that docs/tokenizer.md explains: the file is followed here."""
    theirs = transformers.AutoTokenizer.from_pretrained(v4_folder)
    ours = load_tokenizer(v4_folder)
    assert ids_of(ours, "ｃａｍｅｒａ") == ids_of(ours, "camera")
    assert theirs.tokenize("ｃａｍｅｒａ") != theirs.tokenize("camera")
    plain = [s for s in strings if s.isascii() and s.isprintable() and "  " not in s]
    plain = [s for s in plain if s == s.strip() and "[" not in s]
    assert len(plain) > 300
    assert theirs(plain)["input_ids"] == [list(ours.encode(text).input_ids) for text in plain]


@pytest.mark.parametrize("strategy", ["longest_first", "only_first", "only_second"])
@pytest.mark.parametrize("max_length", [4, 7, 8, 13, 14, 64])
def test_pairs_and_truncation(
    v5: tuple[Any, Tokenizer], strings: list[str], strategy: str, max_length: int
) -> None:
    theirs, ours = v5
    drawn = random.Random(max_length)
    compared = 0
    for _ in range(120):
        first, second = drawn.choice(strings), drawn.choice(strings)
        counts = [len(ids_of(ours, text)) for text in (first, second)]
        fixed = counts[1] if strategy == "only_first" else counts[0]
        if strategy != "longest_first" and fixed + 3 >= max_length:
            continue
        compared += 1
        options: dict[str, Any] = {"truncation": strategy, "max_length": max_length}
        made = theirs(first, second, return_offsets_mapping=True, **options)
        encoding = ours.encode(first, second, **options)
        assert list(encoding.input_ids) == made["input_ids"], (first, second)
        assert list(encoding.token_type_ids) == made["token_type_ids"]
        assert list(encoding.offsets) == made["offset_mapping"]
        assert list(encoding.sequence_ids) == made.sequence_ids(0)
        assert encoding.truncated == (sum(counts) + 3 > max_length)
    assert compared > (20 if max_length > 8 else 0) or strategy != "longest_first"


@pytest.mark.parametrize("truncation_side", ["left", "right"])
def test_single_texts_truncated_at_either_side(
    v4_folder: Path, tmp_path: Path, strings: list[str], truncation_side: str
) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(v4_folder, truncation_side=truncation_side)
    theirs.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    for text in strings[:500]:
        made = theirs(text, truncation=True, max_length=9)["input_ids"]
        assert list(ours.encode(text, max_length=9).input_ids) == made


@pytest.mark.parametrize(
    "options", [{"padding": "longest"}, {"padding": "max_length", "max_length": 37}], ids=str
)
def test_padding(v5: tuple[Any, Tokenizer], strings: list[str], options: dict[str, Any]) -> None:
    theirs, ours = v5
    texts = [s for s in strings if len(ids_of(ours, s)) < 30][20:31]
    made = theirs(texts, padding_side="right", return_tensors="np", **options)
    encoder = TextEncoder(ours, Task.BASE, 512)
    shape = DebertaConfig(type_vocab_size=2, pad_token_id=ours.pad_token_id).shape(Task.BASE)
    feeds = collate([encoder.encode(text) for text in texts], shape, options.get("max_length"))
    assert len(feeds) == 3
    for name, array in feeds.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, made[name], err_msg=name)


def test_ids_tokens_and_decoding(v5: tuple[Any, Tokenizer], strings: list[str]) -> None:
    theirs, ours = v5
    assert ours.vocab_size == len(theirs)
    for name in ("pad", "cls", "sep", "unk", "mask"):
        assert getattr(ours, f"{name}_token_id") == getattr(theirs, f"{name}_token_id")
    everything = list(range(ours.vocab_size))
    tokens = theirs.convert_ids_to_tokens(everything)
    assert ours.convert_ids_to_tokens(everything) == tokens
    for text in strings[:600]:
        ids = list(ours.encode(text).input_ids)
        assert ids_of(ours, text) == theirs.convert_tokens_to_ids(theirs.tokenize(text))
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(
                ids, skip_special_tokens=skip
            )
