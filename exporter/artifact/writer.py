"""The only writer of artifact folders: what carries the final name is always complete."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from exporter.artifact.files import FileRecord, record, storage_error, sync
from exporter.artifact.left_behind import HiddenFolders, locked
from exporter.artifact.manifest import MANIFEST, Manifest, is_artifact
from exporter.errors import InputError


class ArtifactWriter:
    """Writes an artifact folder: context manager around everything that puts files in it.

    Files go into `folder`, a hidden sibling of `output` on the same file system. `finish` gives it
    the final name. Leaving the block in any other way, by an error or an interrupt, removes it.
    What a killed build has left beside `output` is removed, with a warning, or brought back.

    A mount point cannot be renamed: there `folder` is a hidden one inside, and `finish` moves the
    files up, the manifest last. It may be empty without `force`.

    Raises:
        InputError: `output` exists and `force` is off, or it is not an artifact; or it cannot be
            written (permission, disk full), also when that shows within the block.
    """

    def __init__(self, output: Path, *, force: bool = False) -> None:
        # Through a link, the folder it points to is the one that is replaced.
        self._output = output.resolve()
        self._force = force
        self._finished = False
        self._made: list[Path] = []
        self._lock: int | None = None
        self._mount = os.path.ismount(self._output)
        self._hidden = HiddenFolders(self._output, secrets.token_hex(4), mount=self._mount)
        self.folder, self._aside = self._hidden.partial, self._hidden.aside

    def __enter__(self) -> ArtifactWriter:
        try:
            self._hidden.recover()
            self._check_output()
            for parent in reversed([path for path in self._output.parents if not path.is_dir()]):
                parent.mkdir()
                self._made.append(parent)
            self.folder.mkdir()
            self._lock = locked(self.folder)
        except OSError as error:
            self._remove()
            raise storage_error(error, self._output) or InputError(
                f"{self._output}: cannot be written ({error.strerror}); choose another --output"
            ) from error
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
        if self._finished:
            return
        self._remove()
        if isinstance(error, Exception) and not isinstance(error, InputError):
            translated = storage_error(error, self._output, self.folder)
            if translated is not None:
                raise translated from error

    def write_json(self, name: str, content: Mapping[str, Any]) -> Path:
        """Write `content` to the file `name`, with sorted-as-given keys and no NaN."""
        path = self.folder / name
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        return path

    def copy(self, source: Path) -> Path:
        """Copy the content of the file `source` under its own name."""
        return Path(shutil.copyfile(source, self.folder / source.name))

    def records(self) -> tuple[FileRecord, ...]:
        """Every file written so far but the manifest, by path."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        paths = sorted(path for path in files if path.name != MANIFEST)
        return tuple(record(path, path.relative_to(self.folder).as_posix()) for path in paths)

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest and give the folder its final name.

        Raises:
            InputError: the output appeared meanwhile, or cannot be replaced.
        """
        self.write_json(MANIFEST, manifest.to_dict())
        for path in [*self.folder.rglob("*"), self.folder]:
            sync(path)
        self._check_output()
        if self._mount:
            self._move_up()
            return
        try:
            if self._output.exists():
                self._output.rename(self._aside)
            self.folder.rename(self._output)
        except BaseException:
            if self._aside.exists() and not self._output.exists():
                self._aside.rename(self._output)
            raise
        self._finished = True
        sync(self._output.parent)
        if self._aside.exists():
            shutil.rmtree(self._aside, ignore_errors=True)

    def _move_up(self) -> None:
        """Give the files their final place in a mount point, and remove what was there."""
        self._aside.mkdir()
        for path in self._content():
            path.rename(self._aside / path.name)
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == MANIFEST):
            path.rename(self._output / path.name)
        self._finished = True
        sync(self._output)
        for folder in (self._aside, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _content(self) -> list[Path]:
        """What is in the output, the manifest first, but for what is ours or the file system's."""
        ours = {self.folder, self._aside, self._output / "lost+found"}
        found = [path for path in self._output.iterdir() if path not in ours]
        return sorted(found, key=lambda path: path.name != MANIFEST)

    def _check_output(self) -> None:
        output = self._output
        if not output.name and not self._mount:
            raise InputError(f"{output}: cannot be replaced; choose another --output")
        if not output.exists() or (self._mount and not self._content()):
            return
        if not self._force:
            raise InputError(f"{output}: exists; choose another --output, or add --force")
        if not output.is_dir():
            raise InputError(f"{output}: is a file, which --force does not replace")
        if not is_artifact(output) and self._content():
            found = (output / MANIFEST).exists()
            reason = f"its {MANIFEST} is not ours or is broken" if found else f"no {MANIFEST}"
            raise InputError(
                f"{output}: is not an artifact ({reason}), so --force does not replace it"
            )

    def _remove(self) -> None:
        """Remove the partial folder, and the parents made for it where they are empty."""
        if self._mount and self._aside.is_dir():  # it was moving up: what was there comes back
            with suppress(OSError):
                self._hidden.put_back(self.folder, self._aside)
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # someone else has put something there
            for made in reversed(self._made):
                made.rmdir()
