"""Progress of long work on stderr: one updating line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import threading
from time import monotonic
from types import TracebackType
from typing import TextIO

_REFRESH_SECONDS = 0.5


class Progress:
    """Callable that shows a message with the seconds since the start.

    On a terminal, one line is rewritten, also while nothing new is said; elsewhere each message
    is a line. Use as a context manager, so that the line is finished.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._start = monotonic()
        self._message = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._live:
            self._thread = threading.Thread(target=self._refresh, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._write("\r\x1b[K")

    def __call__(self, message: str) -> None:
        """Show `message` as what is going on now."""
        with self._lock:
            self._message = message
        self._show()

    def note(self, message: str) -> None:
        """Print `message` as a line that stays."""
        self._write(f"\r\x1b[K{message}\n" if self._live else f"{message}\n")

    def _refresh(self) -> None:
        while not self._stop.wait(_REFRESH_SECONDS):
            self._show()

    def _show(self) -> None:
        with self._lock:
            line = f"[{monotonic() - self._start:6.1f} s] {self._message}"
        if self._live:
            width = shutil.get_terminal_size().columns
            self._write(f"\r\x1b[K{line[: max(1, width - 1)]}")
        else:
            self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
