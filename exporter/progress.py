"""Progress of long work on stderr: one updating line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import TextIO, TypeAlias

Progress: TypeAlias = Callable[[str], None]
"""Told what is going on, in a few words; `silent` tells nobody."""

CLEAR_LINE = "\r\x1b[K"
"""What a terminal needs before a line that is to stay may be printed over the progress."""

_REFRESH_SECONDS, _REPEAT_SECONDS = 0.5, 10.0
_NUMBER = re.compile(r"\d+")


def silent(message: str) -> None:
    """Progress that nobody sees."""


class ProgressLine:
    """Callable that shows a message with the seconds since the start.

    On a terminal, one line is rewritten, also while nothing new is said. Elsewhere each step is a
    line, and messages that differ in their numbers only are one step, shown again every 10 s. Use
    as a context manager, so that the line is finished.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._start = monotonic()
        self._message, self._step, self._shown = "", "", 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> ProgressLine:
        if self._live:
            self._thread = threading.Thread(target=self._refresh, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._write(CLEAR_LINE)

    def __call__(self, message: str) -> None:
        """Show `message` as what is going on now."""
        step = _NUMBER.sub("", message)
        repeated = step == self._step and monotonic() - self._shown < _REPEAT_SECONDS
        with self._lock:
            self._message = message
        if self._live or not repeated:
            self._step, self._shown = step, monotonic()
            self._show()

    def _refresh(self) -> None:
        while not self._stop.wait(_REFRESH_SECONDS):
            self._show()

    def _show(self) -> None:
        with self._lock:
            line = f"[{monotonic() - self._start:6.1f} s] {self._message}"
        width = max(1, shutil.get_terminal_size().columns - 1)
        self._write(f"{CLEAR_LINE}{line[:width]}" if self._live else f"{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
