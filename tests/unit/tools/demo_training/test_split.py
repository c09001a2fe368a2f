"""The fixed split: by text, order-independent, disjoint, neutral sentences apart."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from exporter.errors import InputError
from tools.demo_training.split import NEGATIVE, POSITIVE, load_split, part_of

HEADER = "source\trating\ttext"


def rows(count: int) -> list[str]:
    """Synthetic rows whose ratings run over -4..4, neutral ones included."""
    return [f"movie\t{(i % 81 - 40) / 10:.3f}\tsentence number {i} is here" for i in range(count)]


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def test_split_does_not_depend_on_the_order_and_is_disjoint(tmp_path: Path) -> None:
    lines = rows(1000)
    split = load_split(write(tmp_path / "a.tsv", lines))
    random.Random(3).shuffle(lines)
    again = load_split(write(tmp_path / "b.tsv", lines[:700]))
    parts = {name: {e.text for e in getattr(split, name)} for name in split.__dataclass_fields__}
    for name in parts:
        assert {e.text for e in getattr(again, name)} <= parts[name]
    everything = [text for part in parts.values() for text in part]
    assert len(everything) == len(set(everything))


def test_sizes_and_labels(tmp_path: Path) -> None:
    split = load_split(write(tmp_path / "s.tsv", rows(4000)))
    rated = [*split.train, *split.validation, *split.test]
    assert len(split.test) / len(rated) == pytest.approx(0.13, abs=0.02)
    assert len(split.validation) / len(rated) == pytest.approx(0.06, abs=0.015)
    assert all(abs(e.rating) >= 0.5 and e.label == (e.rating > 0) for e in rated)
    assert {e.label for e in rated} == {NEGATIVE, POSITIVE}
    assert split.neutral
    assert all(abs(e.rating) < 0.5 and part_of(e.text) == "train" for e in split.neutral)


def test_part_is_the_documented_hash() -> None:
    for text in ("A good film.", "nO", "größe", "x y  z"):
        canonical = " ".join(text.casefold().split()).encode()
        bucket = int(hashlib.sha256(canonical).hexdigest()[:16], 16) % 100
        expected = "test" if bucket < 13 else "validation" if bucket < 19 else "train"
        assert part_of(text) == expected


def test_copies_land_together() -> None:
    for i in range(200):
        assert part_of(f"Copy  {i} OF it ") == part_of(f"copy {i} of it")


def test_quotes_are_text(tmp_path: Path) -> None:
    lines = [*rows(300), 'tweet\t-2.0\t"an opening quote that never closes', 'tweet\t2.0\tq " q']
    split = load_split(write(tmp_path / "s.tsv", lines))
    texts = {e.text for e in (*split.train, *split.validation, *split.test)}
    assert {'"an opening quote that never closes', 'q " q'} <= texts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\trating\nx\t1\n", "first row"),
        ("", "first row"),
        (f"{HEADER}\nmovie\t1.0\n", "line 2: 2 columns"),
        (f"{HEADER}\nmovie\tgood\tx\n", "line 2: rating 'good'"),
        (f"{HEADER}\nmovie\tnan\tx\n", "line 2: rating outside"),
        (f"{HEADER}\nmovie\t4.5\tx\n", "line 2: rating outside"),
        (f"{HEADER}\nmovie\t1.0\t \n", "no text"),
        (f"{HEADER}\nmovie\t1.0\tx\n", "part is empty"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_split(path)
    assert "bad.tsv" in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.tsv"):
        load_split(tmp_path / "absent.tsv")
    latin = tmp_path / "latin.tsv"
    latin.write_bytes(f"{HEADER}\nmovie\t1.0\tcaf".encode() + b"\xe9\n")
    with pytest.raises(InputError, match="UTF-8"):
        load_split(latin)
