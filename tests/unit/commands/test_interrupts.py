"""Builds that are stopped from outside, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("number", "code", "step"),
    [
        (signal.SIGINT, 130, "graph"),
        (signal.SIGINT, 130, "parity: reference"),
        (signal.SIGTERM, 143, "graph"),
        (signal.SIGHUP, 143, "graph"),
    ],
)
def test_a_stopped_build_leaves_nothing(
    number: signal.Signals,
    code: int,
    step: str,
    make_checkpoint: Callable[..., Path],
    texts_file: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "new" / "out"
    arguments = ["build", make_checkpoint("base"), "--data", texts_file, "--output", output]
    arguments += ["--target", "onnx"]
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # Tests that run in the background inherit an ignored SIGINT; a terminal's child does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if step in line:
            break
    time.sleep(0.3 if step == "graph" else 0.0)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    # Python ends by the signal itself when it came inside an exec; a shell reports both as 130.
    assert process.returncode in (code, -signal.SIGINT if code == 130 else code), err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_leaves_nothing_that_looks_finished(
    make_checkpoint: Callable[..., Path], texts_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = ["build", make_checkpoint("base"), "--data", texts_file, "--output", output]
    arguments += ["--target", "onnx"]
    process = subprocess.Popen(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "parity" in line:
            break
    process.kill()
    process.communicate(timeout=60)
    assert not output.exists()
    assert all(path.name.startswith(".out.partial-") for path in tmp_path.iterdir())
