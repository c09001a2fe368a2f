"""Reports written to files, whole or not at all; a path is refused before the models run."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from exporter.errors import InputError
from exporter.parity.result import ParityResult

STDOUT = Path("-")


@dataclass(frozen=True)
class ReportFiles:
    """Where reports go; `-` is stdout, for one of them.

    Attributes:
        json: all figures.
        junit: XML for a CI viewer.
        markdown: for a comment.
        html: a page for people.
    """

    json: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    html: Path | None = None

    @property
    def stdout(self) -> bool:
        """Whether a report goes to stdout, so that nothing else may."""
        return any(path == STDOUT for _, path in self._given())

    def check(self) -> None:
        """Refuse what cannot be written, before the models run.

        Raises:
            InputError: two reports of one path, or a path that cannot be written.
        """
        seen: dict[Path, str] = {}
        for name, path in self._given():
            if path in seen:
                raise InputError(f"--{name} {path}: --{seen[path]} goes there as well")
            seen[path] = name
            if path != STDOUT:
                check_writable(path, f"--{name}")

    def write(self, result: ParityResult) -> None:
        """Make all reports, then write them.

        Raises:
            InputError: one cannot be written; those before it are whole.
        """
        texts = [(path, _MAKERS[name](result)) for name, path in self._given()]
        for path, text in texts:
            if path == STDOUT:
                sys.stdout.write(text)
            else:
                write_whole(path, text)

    def _given(self) -> Iterator[tuple[str, Path]]:
        for item in fields(self):
            path: Path | None = getattr(self, item.name)
            if path is not None:
                yield item.name, path


def check_writable(path: Path, option: str) -> None:
    """Refuse a file that could not be written.

    Raises:
        InputError: it is a folder, or its folder is missing or closed.
    """
    folder = path.parent
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder; give a file")
    if not folder.is_dir():
        raise InputError(f"{option} {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"{option} {path}: no permission to write there")


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place and rename it.

    Raises:
        InputError: it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _json(result: ParityResult) -> str:
    from exporter.parity.report.json import to_json

    return json.dumps(to_json(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _junit(result: ParityResult) -> str:
    from exporter.parity.report.junit import to_junit

    return to_junit(result)


def _markdown(result: ParityResult) -> str:
    from exporter.parity.report.markdown import to_markdown

    return to_markdown(result)


def _html(result: ParityResult) -> str:
    from exporter.parity.report.html import to_html

    return to_html(result)


_MAKERS: Mapping[str, Callable[[ParityResult], str]] = {
    "json": _json,
    "junit": _junit,
    "markdown": _markdown,
    "html": _html,
}
