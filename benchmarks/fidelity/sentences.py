"""The sentences of the comparison as token ids: the same for every method, ours and the peers'.

`S` is a sentence's own length in tokens, [CLS] and [SEP] included.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporter.deberta.tokenization import Tokenizer, load_tokenizer
from tools.demo_training.split import Example, load_split

Ids = NDArray[np.int64]

CALIBRATION = 256
SEED = 20
PAD = 0


@dataclass(frozen=True)
class Sentences:
    """Calibration texts from the train part, and the whole test part with its labels."""

    calibration_texts: tuple[str, ...]
    calibration: tuple[Ids, ...]
    test: tuple[Ids, ...]
    labels: Ids

    def save(self, folder: Path) -> tuple[Path, Path]:
        """Write `calibration.npz` and `test.npz` for the peers; returns their paths.

        Each holds `ids`, all sentences end to end, and `lengths`.
        """
        paths = []
        for name, rows in (("calibration", self.calibration), ("test", self.test)):
            path = folder / f"{name}.npz"
            np.savez(path, ids=np.concatenate(rows), lengths=[len(row) for row in rows])
            paths.append(path)
        return paths[0], paths[1]


def read_sentences(tsv: Path, checkpoint: Path, limit: int | None = None) -> Sentences:
    """Sample the calibration sentences and tokenize both parts with the checkpoint's tokenizer.

    Args:
        tsv: the rated sentences, see `tools.demo_training.split`.
        checkpoint: folder with `spm.model` or `tokenizer.json`.
        limit: take only so many test sentences, to try things out; all by default.

    Raises:
        InputError: a file is missing or malformed.
    """
    split = load_split(tsv)
    tokenizer = load_tokenizer(checkpoint)
    # One line each: the same texts also go into a file with one text per line.
    texts = sorted({" ".join(example.text.split()) for example in split.train})
    chosen = random.Random(SEED).sample(texts, CALIBRATION)
    test: Sequence[Example] = split.test[:limit]
    return Sentences(
        calibration_texts=tuple(chosen),
        calibration=tuple(_encode(tokenizer, text) for text in chosen),
        test=tuple(_encode(tokenizer, " ".join(example.text.split())) for example in test),
        labels=np.array([example.label for example in test], np.int64),
    )


def _encode(tokenizer: Tokenizer, text: str) -> Ids:
    encoding = tokenizer.encode(text, truncation="longest_first", max_length=512)
    return np.array(encoding.input_ids, np.int64)


def batches(rows: Sequence[Ids], size: int) -> Iterator[tuple[list[int], dict[str, Ids]]]:
    """Indices and padded inputs `(B, S)` of `size` sentences at a time, sorted by length."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), i))
    for start in range(0, len(order), size):
        part = order[start : start + size]
        ids = np.full((len(part), max(len(rows[i]) for i in part)), PAD, np.int64)
        mask = np.zeros_like(ids)
        for target, index in enumerate(part):
            ids[target, : len(rows[index])] = rows[index]
            mask[target, : len(rows[index])] = 1
        yield part, {"input_ids": ids, "attention_mask": mask}
