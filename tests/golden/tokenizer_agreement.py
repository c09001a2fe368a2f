"""Measures how often the tokenizers of one checkpoint disagree; prints a table in Markdown.

    PYTHONPATH=. python tests/golden/tokenizer_agreement.py [--folder DIR] [--tsv FILE]

`sentencepiece` and `fast` are ours (equal to the slow and the fast tokenizer of transformers 4, as
the tests show), `transformers 5` is its `AutoTokenizer` on the same folder. `--folder` needs both
`spm.model` and `tokenizer.json`; the default is the small golden checkpoint. Natural text comes
from the last column of `--tsv`, hard strings from `tokenizer_strings.py` with a seed that differs
from that of the golden file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import tempfile
from itertools import combinations
from pathlib import Path

from tokenizer_strings import hard_strings
from transformers import AutoTokenizer

from exporter.deberta.tokenization import load_tokenizer

GOLDEN = Path(__file__).parent / "tokenizer"
HARD_COUNT = 20000
SEED = 7


def golden_checkpoint(folder: Path) -> Path:
    """A folder with the golden `spm.model` and the `tokenizer.json` that transformers 4 made."""
    shutil.copy(GOLDEN / "spm.model", folder)
    content = gzip.decompress((GOLDEN / "tokenizer.json.gz").read_bytes())
    (folder / "tokenizer.json").write_bytes(content)
    config = {"do_lower_case": False, "vocab_type": "spm", "tokenizer_class": "DebertaV2Tokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "deberta-v2"}))
    return folder


def report(name: str, texts: list[str], folder: Path) -> None:
    """One line per pair of tokenizers: texts with different ids, and with different offsets."""
    made: dict[str, list[tuple[list[int], list[tuple[int, int]]]]] = {}
    for kind in ("sentencepiece", "fast"):
        tokenizer = load_tokenizer(folder, kind=kind)
        encodings = [tokenizer.encode(text) for text in texts]
        made[kind] = [(list(e.input_ids), list(e.offsets)) for e in encodings]
    theirs = AutoTokenizer.from_pretrained(folder)(texts, return_offsets_mapping=True)
    rows = zip(theirs["input_ids"], theirs["offset_mapping"], strict=True)
    made["transformers 5"] = [(ids, [(a, b) for a, b in offsets]) for ids, offsets in rows]
    for one, other in combinations(made, 2):
        both = list(zip(made[one], made[other], strict=True))
        ids = sum(a[0] != b[0] for a, b in both)
        offsets = sum(a[0] == b[0] and a[1] != b[1] for a, b in both)
        total = len(texts)
        print(
            f"| {name} | {one} | {other} | {total} | {ids} ({ids / total:.2%}) "
            f"| {offsets} ({offsets / total:.2%}) |"
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--tsv", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or golden_checkpoint(Path(temporary))
        print("| texts | one | other | compared | other ids | same ids, other offsets |")
        print("|---|---|---|---|---|---|")
        if options.tsv:
            lines = options.tsv.read_text(encoding="utf-8").splitlines()[1:]
            report("natural", [line.split("\t")[-1] for line in lines], folder)
        report("hard", hard_strings(HARD_COUNT, SEED), folder)


if __name__ == "__main__":
    main()
