"""The files of an artifact before it runs: whole, damaged, or rewritten by another program.

Servers and libraries save a configuration and a tokenizer anew into the folder that they loaded.
What such files mean is compared with the manifest; a graph or an engine must be as it was.
"""

from __future__ import annotations

from pathlib import Path

from exporter.artifact.files import FileRecord, verify_files
from exporter.artifact.manifest import Manifest
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.model_folder import CONFIG
from exporter.deberta.tokenization import TOKENIZER_FILES, load_tokenizer, token_fingerprint
from exporter.errors import InputError
from exporter.model.task import Task

_SETTINGS = (CONFIG, *TOKENIZER_FILES)


def check_files(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Names of configuration and tokenizer files that were rewritten, and mean what they meant.

    Of these the hashes are compared, of all other files the sizes.

    Raises:
        InputError: a file is missing or damaged, describes another model, or gives other token ids.
    """
    settings: list[FileRecord] = []
    for item in manifest.files:
        path = folder / item.path
        if not path.is_file():
            raise InputError(f"{path}: missing; build the artifact again")
        if item.path in _SETTINGS:
            settings.append(item)
        elif (size := path.stat().st_size) != item.bytes:
            raise InputError(
                f"{path}: {size} bytes, the manifest says {item.bytes}; build the artifact again"
            )
    changed = tuple(problem.path for problem in verify_files(folder, settings))
    if CONFIG in changed:
        _check_model(folder, manifest)
    if tokenizer := [name for name in changed if name != CONFIG]:
        _check_tokenizer(folder, manifest, ", ".join(tokenizer))
    return changed


def _check_model(folder: Path, manifest: Manifest) -> None:
    """Refuse a `config.json` of another model than the manifest's."""
    try:
        task = Task(manifest.task)
    except ValueError:
        return  # a head that this version does not know: whoever opens it says so
    labels = {str(index): label for index, label in manifest.labels.items()}
    known = DebertaConfig.from_dict({**manifest.model, "id2label": labels}).shape(task)
    if DebertaConfig.from_folder(folder).shape(task) != known:
        raise InputError(
            f"{folder / CONFIG}: changed since the build, and describes another model than "
            "manifest.json; build the artifact again"
        )


def _check_tokenizer(folder: Path, manifest: Manifest, names: str) -> None:
    """Refuse tokenizer files that give other ids than the build's, or cannot be read."""
    found = token_fingerprint(load_tokenizer(folder))
    if found != manifest.source.token_ids:
        raise InputError(
            f"{folder}: {names} changed since the build, and "
            f"{'gives other token ids' if manifest.source.token_ids else 'nothing says how'}; "
            "build the artifact again"
        )
