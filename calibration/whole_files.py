"""Files that are whole or not there."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def write_whole(
    path: Path, content: str | Iterable[bytes | memoryview], *, durable: bool = True
) -> None:
    """Write a file beside its place and rename it: nobody sees a part of it.

    A link stays one; what is no file, such as a pipe, is written as it is. Text becomes UTF-8.
    A `durable` file is on the disk before it has its name, so that it outlives a power failure.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    pieces = (content.encode(),) if isinstance(content, str) else content
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as stream:
            stream.writelines(pieces)
        return
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with partial.open("wb") as stream:
            stream.writelines(pieces)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
