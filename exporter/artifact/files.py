"""Files of a checkpoint or an artifact: their hashes, and what goes wrong in writing them."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from calibration.whole_files import write_whole
from exporter.errors import InputError

STDOUT = Path("-")
_CHUNK_BYTES = 1 << 22
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file would exceed the size limit",
}
_DENIED = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "no permission to write there"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), "a part of the path is a file"),
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long",
}


@dataclass(frozen=True)
class FileRecord:
    """One file: its path (relative to its folder), size in bytes and SHA-256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FileProblem:
    """A file that is not what the manifest says."""

    path: str
    problem: str


def usable_path(path: Path | str) -> Path:
    """The path; an InputError where no file of JSON can name it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        shown = ascii(str(path))
        raise InputError(f"{shown}: the path is not UTF-8; rename it, or give a link") from None
    if "\0" in str(path):
        raise InputError(f"{str(path)!a}: a path has no null character")
    return Path(path)


def record(path: Path, name: str | None = None) -> FileRecord:
    """Size and SHA-256 of the file at `path`, under `name` (its own name by default).

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        return FileRecord(name or path.name, file.tell(), digest.hexdigest())


def verify_files(folder: Path, records: Iterable[FileRecord]) -> tuple[FileProblem, ...]:
    """The files of `records` that are missing in `folder` or have changed, with what is wrong."""
    problems = []
    for expected in records:
        path = folder / expected.path
        try:
            size = path.stat().st_size
            if size != expected.bytes:
                found = f"changed: {size} bytes instead of {expected.bytes}"
            elif (actual := record(path)).sha256 != expected.sha256:
                found = f"changed: SHA-256 {actual.sha256[:12]}… instead of {expected.sha256[:12]}…"
            else:
                continue
        except FileNotFoundError:
            found = "missing"
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
        problems.append(FileProblem(expected.path, found))
    return tuple(problems)


def storage_error(
    error: BaseException, output: Path, partial: Path | None = None
) -> InputError | None:
    """The user's message when `error`, or what caused it, is a failure to write `output`.

    With `partial`, a refused access counts only below that path: it may as well have been another
    file that could not be read.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            if reason := _FULL.get(cause.errno):
                return InputError(f"{output}: {reason}; free some space or choose another --output")
            ours = partial is None or str(cause.filename or "").startswith(str(partial))
            if ours and (reason := _DENIED.get(cause.errno)):
                return InputError(f"{output}: {reason}; choose another --output")
        cause = cause.__cause__ or cause.__context__
    return None


def write_output(path: Path, text: str) -> None:
    """Write a text that the user asked for to a file, or to stdout for `-`.

    Raises:
        InputError: it cannot be written; what was there before stays.
    """
    if path == STDOUT:
        sys.stdout.write(text)
        return
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):
        return  # such systems cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
