"""Files of a tokenizer: found, saved, compared, and refused where they are wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from support.tokenizer_files import KINDS, MASK, configure

from exporter.deberta.tokenization import (
    Tokenizer,
    check_vocabulary,
    load_tokenizer,
    tokenizer_files,
)
from exporter.errors import InputError


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


def test_check_vocabulary(tokenizer: Tokenizer) -> None:
    check_vocabulary(tokenizer, MASK + 1)
    check_vocabulary(tokenizer, MASK + 100)
    with pytest.raises(InputError, match=r"1600 \('\[MASK\]'\).*1600 rows"):
        check_vocabulary(tokenizer, MASK)


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
    assert "<ent>" not in tokenizer.decode(encoding.input_ids)
    assert "<ent>" in tokenizer.decode(encoding.input_ids, skip_special_tokens=False)
    check_vocabulary(tokenizer, MASK + 2)


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
        ("fast", write_json(CONFIG, {"truncation_side": "up"}), "truncation_side must be"),
        ("fast", write_json(CONFIG, {"added_tokens_decoder": []}), "added_tokens_decoder must"),
        (
            "fast",
            write_json(CONFIG, {"added_tokens_decoder": {"x": {"content": "<e>"}}}),
            "expected an integer",
        ),
        (
            "fast",
            write_json(CONFIG, {"added_tokens_decoder": {"9000": {"content": "<e>"}}}),
            r"tokenizer_config\.json the id 9000; the two are of different checkpoints",
        ),
        (
            "fast",
            write_json("added_tokens.json", {"<e>": 9000}),
            r"added_tokens\.json the id 9000; the two are of different checkpoints",
        ),
        (
            "sentencepiece",
            lambda folder: (folder / "spm.model").write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2464616\n"
            ),
            r"spm\.model: a pointer of Git LFS.*git lfs pull",
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
