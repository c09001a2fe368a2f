from __future__ import annotations

from pathlib import Path

import pytest

from exporter.errors import InputError
from exporter.inputs.labelled import read_texts


def test_texts_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes("one\r\n\r\n  \nq\tc\np\ta\tb\nlast ü".encode())
    assert read_texts(path) == ("one", ("q", "c"), ("p", ("a", "b")), "last ü")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no texts"),
        (b"\n \n\t\n", "no texts"),
        (b"ab\xff\xfe", "not UTF-8 text .byte 2"),
        (b"text\0more", "binary data"),
    ],
)
def test_unusable_text_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_texts(path)


def test_missing_text_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.txt: cannot be read"):
        read_texts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_texts(tmp_path)
