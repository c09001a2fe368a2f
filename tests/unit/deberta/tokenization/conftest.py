"""A checkpoint's tokenizer files, and the tokenizer of each kind read from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tokenizer_files import KINDS, write_tokenizer_files

from exporter.deberta.tokenization import Tokenizer, load_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint's tokenizer files of both kinds."""
    write_tokenizer_files(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, folder: Path) -> Tokenizer:
    return load_tokenizer(folder, kind=request.param)
