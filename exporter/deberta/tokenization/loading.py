"""Finding and loading the tokenizer of a checkpoint folder."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from exporter.deberta.tokenization.settings import FAST_FILE, SETTINGS_FILES, read_settings
from exporter.deberta.tokenization.tokenizer import Tokenizer
from exporter.errors import InputError, MissingDependencyError

SENTENCEPIECE_FILE = "spm.model"
TOKENIZER_FILES = (SENTENCEPIECE_FILE, FAST_FILE, *SETTINGS_FILES)
"""Every file that a tokenizer may have."""


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of `folder` that make up its tokenizer, those that are present, vocabulary first.

    Raises InputError when neither `tokenizer.json` nor `spm.model` is there.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name a checkpoint folder")
    vocabularies = _present(folder, (SENTENCEPIECE_FILE, FAST_FILE))
    if not vocabularies:
        files = f"{FAST_FILE} or {SENTENCEPIECE_FILE}"
        raise InputError(f"{folder}: has no tokenizer: add the {files} of the checkpoint")
    return vocabularies + _present(folder, SETTINGS_FILES)


def load_tokenizer(
    folder: Path, *, kind: Literal["auto", "sentencepiece", "fast"] = "auto"
) -> Tokenizer:
    """The tokenizer of a checkpoint folder in the Hugging Face format.

    "auto" takes `tokenizer.json` where there is one, else `spm.model`: transformers writes
    `tokenizer.json` whenever it used the fast kind, which is its default, so the file is what the
    model was trained with (docs/tokenizer.md). Raises InputError when files are missing, damaged
    or lack DeBERTa's special tokens.
    """
    folder = Path(folder)
    present = {path.name for path in tokenizer_files(folder)}
    if kind == "auto":
        kind = "fast" if FAST_FILE in present else "sentencepiece"
    if kind not in ("sentencepiece", "fast"):
        raise InputError(f'kind must be "auto", "sentencepiece" or "fast", got {kind!r}')
    name = FAST_FILE if kind == "fast" else SENTENCEPIECE_FILE
    if name not in present:
        raise InputError(f"{folder}: has no {name}, which the {kind} tokenizer needs")
    settings = read_settings(folder, kind)
    source_files = (folder / name, *_present(folder, SETTINGS_FILES))
    # Each kind loads its own library only.
    library = "tokenizers" if kind == "fast" else "sentencepiece"
    if find_spec(library) is None:
        raise MissingDependencyError(f"{folder / name} needs {library}; pip install {library}")
    if kind == "fast":
        from exporter.deberta.tokenization.fast_tokenizer import FastTokenizer

        return FastTokenizer(folder / name, settings, source_files)
    from exporter.deberta.tokenization.sentencepiece_tokenizer import SentencePieceTokenizer

    return SentencePieceTokenizer(folder / name, settings, source_files)


def _present(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(folder / name for name in names if (folder / name).is_file())
