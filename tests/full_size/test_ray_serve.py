"""`examples/serve/ray_serve.py`, as a process: answers, refusals, many clients at once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint

from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.predictions.predicted import LabelPrediction
from exporter.runtime.load import load

pytestmark = pytest.mark.slow

pytest.importorskip("ray.serve")
EXAMPLE = Path(__file__).parents[2] / "examples" / "serve" / "ray_serve.py"


def ask(port: int, body: bytes) -> tuple[int, Any]:
    """Status and content of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", data=body)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def wait_until_ready(port: int, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 180
    while True:
        assert server.poll() is None, "the server has ended"
        assert time.monotonic() < end, "the server does not start"
        try:
            assert ask(port, b'{"text": "a"}')[0] == 200
        except (OSError, ValueError, AssertionError):
            time.sleep(0.5)
        else:
            return


def test_ray_serve(tmp_path: Path) -> None:
    data = tmp_path / "texts.txt"
    data.write_text("".join(f"text number {i}\n" for i in range(9)))
    folder = tmp_path / "artifact"
    model = write_checkpoint(tmp_path / "checkpoint", "sequence-classification")
    assert build(BuildConfig(model=model, output=folder, data=data, targets=("onnx",))).passed
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(EXAMPLE), str(folder), "--replicas", "2", "--port", str(port)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_ready(port, server)
        texts = [f"{'very ' * (i % 9)}good {i}" for i in range(64)] + [
            "",
            "Größe 👍",
            "x " * 500_000,
        ]
        with ThreadPoolExecutor(16) as clients:
            bodies = [json.dumps({"text": text}).encode() for text in texts]
            found = list(clients.map(lambda body: ask(port, body), bodies))
        with load(folder) as session, pytest.warns(UserWarning, match="text cut"):
            expected = session(texts)
        for (status, answer), prediction, text in zip(found, expected, texts, strict=True):
            assert isinstance(prediction, LabelPrediction)
            assert (status, answer["text"]) == (200, text)
            score = pytest.approx(prediction.labels[0].score, rel=1e-4)
            assert answer["labels"][0] == {"label": prediction.labels[0].label, "score": score}
        for body, reason in (
            (b"{", "Expecting property name"),
            (b"[]", "expected an object"),
            (b"\xff", "can't decode byte"),
            (b'{"text": 3}', '"text" is 3; expected a text'),
            (b'{"text": "a", "choices": ["b", "c"]}', "takes at most two texts"),
        ):
            status, answer = ask(port, body)
            assert (status, reason in answer["error"]) == (400, True), answer
    finally:
        server.terminate()
        server.wait(60)
