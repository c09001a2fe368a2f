"""What a build that was killed has left beside its output: removed, or put back."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

from exporter.artifact.manifest import MANIFEST, read_manifest
from exporter.errors import InputError

_LONGEST = 200
"""Bytes of a name that leave room for what is put around it; file systems take 255."""


class HiddenFolders:
    """Names of the folders that a build makes beside, or in a mount point within, its output.

    `partial` is the new artifact until it is whole, locked by its build; `aside` is the old one
    while it is being replaced.
    """

    def __init__(self, output: Path, token: str, *, mount: bool) -> None:
        encoded = os.fsencode(output.name)
        digest = hashlib.sha256(encoded).hexdigest()[:32]
        self._output = output
        self._mount = mount
        self._place = output if mount else output.parent
        self._name = output.name if len(encoded) <= _LONGEST else digest
        self.partial = self._place / f".{self._name}.partial-{token}"
        self.aside = self._place / f".{self._name}.old-{token}"

    def recover(self) -> None:
        """Bring back an artifact whose replacement was cut short, and remove unfinished ones.

        Folders of a build that still runs are locked, and stay.
        """
        for aside in self._all("old"):
            partial = self._place / aside.name.replace(".old-", ".partial-")
            lock = locked(partial) if partial.is_dir() else None
            if lock is None and partial.is_dir():
                continue
            with suppress(OSError):
                self.put_back(partial, aside)
            if lock is not None:
                os.close(lock)
        for partial in self._all("partial"):
            lock = locked(partial)
            if lock is not None:
                warnings.warn(f"{partial}: left by a build that was killed; removed", stacklevel=4)
                shutil.rmtree(partial, ignore_errors=True)
                os.close(lock)

    def put_back(self, partial: Path, aside: Path) -> None:
        """Undo a replacement that has not come to its end, and remove `aside` in any case.

        Raises:
            OSError: a file cannot be moved; what was not stays in `aside`.
        """
        # The manifest is the last to move, either way.
        moving = (partial / MANIFEST).exists() or not (self._output / MANIFEST).exists()
        if self._mount and moving:
            for name in _top_names(partial):
                if not (partial / name).exists():
                    _discard(self._output / name)
            for path in sorted(aside.iterdir(), key=lambda path: path.name == MANIFEST):
                path.rename(self._output / path.name)
        elif not self._mount and not self._output.exists():
            aside.rename(self._output)
        shutil.rmtree(aside, ignore_errors=True)

    def _all(self, kind: str) -> list[Path]:
        return sorted(self._place.glob(f"{glob.escape(f'.{self._name}.{kind}-')}*"))


def locked(folder: Path) -> int | None:
    """A descriptor that locks a folder until it is closed; None where another process has it."""
    try:
        import fcntl
    except ImportError:  # a system without it: nothing is known to be stale
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _top_names(artifact: Path) -> set[str]:
    """Names in an artifact's folder, by its manifest."""
    try:
        return {Path(file.path).parts[0] for file in read_manifest(artifact).files}
    except InputError:  # torn by the kill: it was not whole, so nothing of it has moved
        return set()


def _discard(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
