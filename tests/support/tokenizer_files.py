"""Tokenizer files of a checkpoint, of both kinds, made of the golden ones."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any, Literal

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizer"
KINDS: tuple[Literal["fast", "sentencepiece"], ...] = ("fast", "sentencepiece")
CLS, SEP, PAD, UNK, MASK = 1, 2, 0, 3, 1600


def write_tokenizer_files(folder: Path) -> None:
    """Make `folder` with `spm.model`, `tokenizer.json` and `tokenizer_config.json`."""
    folder.mkdir()
    shutil.copy(GOLDEN / "spm.model", folder)
    content = gzip.decompress((GOLDEN / "tokenizer.json.gz").read_bytes())
    (folder / "tokenizer.json").write_bytes(content)
    configure(folder)


def configure(folder: Path, **fields: Any) -> None:
    """Write `tokenizer_config.json` with these fields changed."""
    config = {"do_lower_case": False, "vocab_type": "spm", **fields}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
