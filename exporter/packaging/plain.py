"""The graph of an artifact in its plain form, as one file for tools that read no functions."""

from __future__ import annotations

import tempfile
from pathlib import Path

from exporter.artifact.files import storage_error, verify_files
from exporter.artifact.manifest import MODEL_FILE, Manifest
from exporter.errors import InputError
from exporter.graph.transforms.plain_form import write_plain


def package_plain(artifact: Path, manifest: Manifest, target: Path) -> tuple[Path, ...]:
    """Write the graph to `target`, and its weights to `<target>.data` where they lie outside.

    Returns the files, which are there whole or not at all.

    Raises:
        InputError: a file of the artifact has changed, or the target exists or cannot be written.
    """
    problems = verify_files(artifact, manifest.files)
    if problems:
        raise InputError(f"{artifact}: {problems[0].path} {problems[0].problem}; build it again")
    if target.exists():
        raise InputError(f"{target}: exists; choose another name")
    try:
        with tempfile.TemporaryDirectory(prefix=".plain-", dir=target.absolute().parent) as folder:
            files = write_plain(artifact / MODEL_FILE, Path(folder) / target.name)
            # The graph last: nobody opens it before its weights are there.
            return tuple(file.replace(target.with_name(file.name)) for file in reversed(files))
    except OSError as error:
        raise storage_error(error, target) or InputError(
            f"{target}: cannot be written ({error.strerror})"
        ) from error
