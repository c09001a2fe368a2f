"""A headless browser, driven over its own protocol, and what it shows of a page."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "DEB_EXPORT_BROWSER"
_SECONDS = 60.0
_COLOURS = """
(async () => {
  const image = new Image();
  image.src = "data:image/png;base64,%s";
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width; canvas.height = image.height;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const counts = new Map();
  for (let i = 0; i < data.length; i += 4) {
    const key = (data[i] << 16) | (data[i + 1] << 8) | data[i + 2];
    counts.set(key, (counts.get(key) || 0) + 1);
  }
  return [...counts.entries()];
})()
"""


def find_browser() -> str | None:
    """The program, or None where there is none."""
    given = os.environ.get(VARIABLE)
    if given:
        return shutil.which(given)
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Shown:
    """What a page looked like.

    Attributes:
        png: of the whole page.
        plots: pixels by colour (0xRRGGBB) of each drawing.
        page: pixels by colour of the whole page.
        requests: addresses asked for beside the page itself.
        messages: what the console has.
        wide: whether the page is wider than the window.
    """

    png: bytes
    plots: tuple[dict[int, int], ...]
    page: dict[int, int]
    requests: tuple[str, ...]
    messages: tuple[str, ...]
    wide: bool


class Browser:
    """A browser process; use as a context manager."""

    def __init__(self, program: str) -> None:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        # It reads commands from descriptor 3 and writes to 4.
        shell = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        arguments = [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        arguments += ["--remote-debugging-pipe", "--hide-scrollbars", "--disable-extensions"]
        arguments += [f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, *arguments],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._next = 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._folder.cleanup()

    def show(self, page: Path, theme: str, width: int = 1280) -> Shown:
        """Load a file with a colour scheme, "light" or "dark"."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", session)
        feature = {"name": "prefers-color-scheme", "value": theme}
        self._call("Emulation.setEmulatedMedia", session, features=[feature])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", session, **size)
        self._events.clear()
        self._call("Page.navigate", session, url=page.as_uri())
        self._wait("Page.loadEventFired")
        rectangles = self._evaluate(
            session,
            "[...document.querySelectorAll('svg')].map(e => { const r = e.getBoundingClientRect();"
            " return {x: r.x + scrollX, y: r.y + scrollY, width: r.width, height: r.height}; })",
        )
        wide = self._evaluate(session, "document.documentElement.scrollWidth > innerWidth")
        png = self._capture(session, None)
        plots = tuple(self._colours(self._capture(session, clip)) for clip in rectangles)
        requests = tuple(
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        )
        messages = tuple(
            json.dumps(event["params"])
            for event in self._events
            if event["method"]
            in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        )
        others = tuple(url for url in requests if url != page.as_uri())
        colours = self._colours(png)
        self._call("Target.closeTarget", targetId=target)
        return Shown(base64.b64decode(png), plots, colours, others, messages, wide)

    def _colours(self, png: str) -> dict[int, int]:
        """Pixels of an image by colour, counted by the browser on a blank page."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        found = self._evaluate(session, _COLOURS % png)
        self._call("Target.closeTarget", targetId=target)
        return {int(colour): int(count) for colour, count in found}

    def _capture(self, session: str, clip: dict[str, float] | None) -> str:
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": True}
        if clip is not None:
            options["clip"] = {**clip, "scale": 1}
        data: str = self._call("Page.captureScreenshot", session, **options)["data"]
        return data

    def _evaluate(self, session: str, code: str) -> Any:
        options = {"returnByValue": True, "awaitPromise": True}
        found = self._call("Runtime.evaluate", session, expression=code, **options)
        assert "exceptionDetails" not in found, found
        return found["result"]["value"]

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._next += 1
        message = {"id": self._next, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        self._write(json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _SECONDS
        while True:
            answer = self._read(end)
            if answer.get("id") == self._next:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _wait(self, method: str) -> None:
        end = time.monotonic() + _SECONDS
        while not any(event.get("method") == method for event in self._events):
            self._events.append(self._read(end))

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._out, data) :]

    def _read(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError("the browser does not answer")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
