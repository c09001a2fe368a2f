"""Writes the golden tokenizer files with transformers 4.x, whose slow tokenizer version 5 lacks.

    python -m venv tok4 && tok4/bin/pip install 'transformers<5' sentencepiece protobuf
    tok4/bin/python tests/golden/make_tokenizer_golden.py [--train sentences.tsv]

`--train` makes the two small SentencePiece models anew first, from the text column of that file;
without it the committed ones are used. Written to `tests/golden/tokenizer/`:

    spm.model            1,600 pieces, normaliser and special tokens as in DeBERTa-v3
    identity.model       no normaliser, no dummy prefix, white space kept
    tokenizer.json.gz    the fast tokenizer that transformers makes of spm.model
    golden.json.gz       strings, and what transformers makes of them (keys: see `main`)
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
import transformers
from tokenizer_strings import hard_strings
from transformers import DebertaV2Tokenizer, DebertaV2TokenizerFast

HERE = Path(__file__).parent / "tokenizer"
STRING_COUNT = 4000
SEED = 20240517
# The options of transformers' tokenizers, by the name they have in the golden file.
VARIANTS: dict[str, dict[str, bool]] = {
    "plain": {},
    "lower": {"do_lower_case": True},
    "punct": {"split_by_punct": True},
    "both": {"do_lower_case": True, "split_by_punct": True},
}
EXTRA_LINES = (
    "Привет мир, как дела? Всё хорошо. Это очень хороший фильм.",
    "Καλημέρα κόσμε, τι κάνεις; Ο ΚΑΛΟΣ φίλος.",
    "שלום עולם, מה שלומך היום",
    "مرحبا بالعالم كيف حالك اليوم",
    "नमस्ते दुनिया आप कैसे हैं",
    "你好世界,这是一个很好的产品。我们不喜欢它。",
    "こんにちは世界、カメラはとても良いです。",
    "안녕하세요 세계 정말 좋은 영화입니다",
    "สวัสดีชาวโลก วันนี้เป็นอย่างไร",
    "Ça va très bien, naïve café déjà vu, Straße, Łódź, İstanbul ılık, smørrebrød, œuvre, ǆ",
    "x = y + z; a < b > c; {d} [e] (f) ~ ^ | \\ / @ # $ % & * _ ` « » “ ” ‘ ’ – — … • € £ ™ ©",
    "😀 😂 🥰 👍 🎉 💯 ❤ ☺ ♀ 🏽 ⚡ ☃ ♥ → ⇒ ∀ ≠ ≤ █",
    "0 1 2 3 4 5 6 7 8 9 A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
)


def train(text_file: Path) -> None:
    """Trains both models; pieces and their order depend on the sentencepiece version."""
    lines = text_file.read_text(encoding="utf-8").splitlines()[1:8001]
    texts = [line.split("\t")[2] for line in lines]

    def sentences() -> Iterator[str]:
        yield from texts
        for _ in range(20):
            yield from EXTRA_LINES

    special = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    names = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
    special |= dict(zip(("pad_piece", "bos_piece", "eos_piece", "unk_piece"), names, strict=True))
    for name, options in {
        "spm": {"vocab_size": 1600},
        "identity": {
            "vocab_size": 1000,
            "normalization_rule_name": "identity",
            "add_dummy_prefix": False,
            "remove_extra_whitespaces": False,
        },
    }.items():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=sentences(),
            model_prefix=str(HERE / name),
            model_type="unigram",
            character_coverage=0.99999,
            num_threads=1,
            minloglevel=2,
            **special,
            **options,
        )
        (HERE / f"{name}.vocab").unlink()


def checkpoint(model: Path, root: Path, name: str, options: dict[str, bool]) -> Path:
    """A folder as on the Hugging Face hub: `spm.model` and a two-line `tokenizer_config.json`."""
    folder = root / name
    folder.mkdir()
    shutil.copy(model, folder / "spm.model")
    config = {"do_lower_case": False, "vocab_type": "spm", **options}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def pairs(tokenizer: DebertaV2Tokenizer, strings: list[str]) -> list[dict[str, Any]]:
    """Pairs under every truncation strategy, and what the slow tokenizer makes of them."""
    cases = []
    for i in range(0, 360, 2):
        for strategy in ("longest_first", "only_first", "only_second", "do_not_truncate"):
            max_length = (8, 9, 16, 17, 33)[(i // 2) % 5]
            first, second = strings[i], strings[i + 1]
            lengths = [len(tokenizer.tokenize(text)) for text in (first, second)]
            # On these the slow tokenizer logs an error and returns too many tokens.
            if strategy == "only_first" and lengths[1] + 3 >= max_length:
                continue
            if strategy == "only_second" and lengths[0] + 3 >= max_length:
                continue
            made = tokenizer(
                first,
                second,
                truncation=strategy,
                max_length=max_length,
                return_special_tokens_mask=True,
            )
            case = {"first": i, "second": i + 1, "truncation": strategy, "max_length": max_length}
            cases.append(case | dict(made))
    return cases


def with_added_tokens(root: Path, strings: list[str]) -> dict[str, Any]:
    """What the slow tokenizer makes of texts with added tokens of every kind, lower-casing."""
    tokenizer = DebertaV2Tokenizer.from_pretrained(
        checkpoint(HERE / "spm.model", root, "added", {"do_lower_case": True})
    )
    special = tokenizers.AddedToken("<Ent>", lstrip=True, rstrip=True, special=True)
    tokenizer.add_tokens([special], special_tokens=True)
    tokenizer.add_tokens(
        [
            tokenizers.AddedToken("camera", rstrip=True, normalized=False),
            tokenizers.AddedToken("B", lstrip=True, normalized=True),
            tokenizers.AddedToken("[E1]", normalized=True),
        ]
    )
    tokenizer.save_pretrained(root / "added_saved")
    config = json.loads((root / "added_saved" / "tokenizer_config.json").read_text())
    inserted = ("<Ent>", " <ENT>  ", "camera ", "CAMERA", "  b", "B ", "[E1]", "[e1] ", "  <Ent>\n")
    texts = []
    for i, text in enumerate(strings):
        middle = len(text) // 2
        first, second = inserted[i % len(inserted)], inserted[(i * 5 + 1) % len(inserted)]
        texts.append(text[:middle] + first + text[middle:] + second)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    decoded = [[tokenizer.decode(row, skip_special_tokens=s) for s in (True, False)] for row in ids]
    return {"config": config, "strings": texts, "ids": packed(ids), "decoded": decoded}


def packed(rows: list[list[int]]) -> list[str]:
    """Rows of ids as strings, which JSON stores in less room than lists."""
    return [" ".join(map(str, row)) for row in rows]


def main() -> None:
    """Writes the files that the module's docstring names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, metavar="TSV")
    options = parser.parse_args()
    HERE.mkdir(exist_ok=True)
    if options.train:
        train(options.train)
    strings = hard_strings(STRING_COUNT, SEED)
    golden: dict[str, Any] = {
        "versions": {
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "sentencepiece": sentencepiece.__version__,
        },
        "strings": strings,
        "slow": {},  # variant -> input ids per string, special tokens included
        "fast": {},  # variant -> {string index: input ids} where they differ from "slow"
    }
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, flags in VARIANTS.items():
            folder = checkpoint(HERE / "spm.model", root, name, flags)
            slow = DebertaV2Tokenizer.from_pretrained(folder)
            fast = DebertaV2TokenizerFast.from_pretrained(folder)
            subset = strings if name == "plain" else strings[:1500]
            slow_ids = [slow(text)["input_ids"] for text in subset]
            made = [fast(text, return_offsets_mapping=True) for text in subset]
            golden["slow"][name] = packed(slow_ids)
            golden["fast"][name] = {
                i: " ".join(map(str, m["input_ids"]))
                for i, (m, ids) in enumerate(zip(made, slow_ids, strict=True))
                if m["input_ids"] != ids
            }
            if name != "plain":
                continue
            # Offsets of the fast tokenizer: start and end in turn.
            offsets = [m["offset_mapping"] for m in made[:1500]]
            golden["fast_offsets"] = packed([[x for o in row for x in o] for row in offsets])
            golden["slow_tokens"] = [slow.tokenize(text) for text in strings[:300]]
            golden["slow_decoded"] = [
                [slow.decode(ids, skip_special_tokens=skip) for skip in (True, False)]
                for ids in slow_ids[:300]
            ]
            golden["pairs"] = pairs(slow, strings)
            fast.save_pretrained(root / "saved")
            content = (root / "saved" / "tokenizer.json").read_bytes()
            (HERE / "tokenizer.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))
        folder = checkpoint(HERE / "identity.model", root, "identity", {})
        slow = DebertaV2Tokenizer.from_pretrained(folder)
        golden["slow"]["identity"] = packed([slow(text)["input_ids"] for text in strings[:1500]])
        golden["added"] = with_added_tokens(root, strings[:500])
    content = json.dumps(golden, ensure_ascii=False, separators=(",", ":")).encode()
    (HERE / "golden.json.gz").write_bytes(gzip.compress(content, 9, mtime=0))


if __name__ == "__main__":
    main()
