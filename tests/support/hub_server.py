"""A server on the loopback address with a model or two, as `huggingface_hub` asks for them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PLACE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_INFO = re.compile(
    r"/api/models/(?P<name>[^/]+/[^/]+)(/(?P<kind>revision|tree)/(?P<revision>[^/?]+))?"
)


@contextmanager
def hub_server(
    models: dict[str, Path], token: str | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Its address, and the requests that it gets; with `token`, others are refused.

    Each model has one commit, `COMMIT`, whose branch is main and whose tag is v1.
    """
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(self.path.partition("?")[0])
            seen.append(f"{self.command} {path}")
            found = _PLACE.fullmatch(path) or _INFO.fullmatch(path)
            folder = models.get(found["name"]) if found else None
            if found is None or folder is None:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
                return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
            if found["revision"] not in (None, "main", "v1", COMMIT):
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if "file" in found.groupdict():
                file = folder / found["file"]
                if not file.is_file():
                    return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                content = file.read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            files = sorted(p for p in folder.rglob("*") if p.is_file())
            names = [p.relative_to(folder).as_posix() for p in files]
            listed: Any = {
                "id": found["name"], "sha": COMMIT, "private": False, "tags": [], "downloads": 0,
                "siblings": [{"rfilename": name} for name in names],
            }  # fmt: skip
            if found["kind"] == "tree":
                listed = [
                    {"type": "file", "path": name, "size": p.stat().st_size,
                     "oid": hashlib.sha1(p.read_bytes()).hexdigest()}
                    for name, p in zip(names, files, strict=True)
                ]  # fmt: skip
            return self._send(200, json.dumps(listed).encode(), {"X-Repo-Commit": COMMIT})

        def _send(self, code: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
