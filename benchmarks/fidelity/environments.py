"""The peers' own virtual environments: pinned packages, made once in a cache folder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fidelity.result import Unavailable, last_line

PACKAGES = {
    "ort": ("onnxruntime==1.32.0", "onnx==1.23.2", "sympy==1.14.0"),
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0", "torch==2.13.0"),
    "nncf": ("nncf==3.4.0", "openvino==2026.4.1", "onnx==1.23.2", "onnxruntime==1.32.0"),
}
"""Environment -> what is installed in it."""


@dataclass(frozen=True)
class Environments:
    """Where the peers' interpreters are.

    Attributes:
        folder: holds `peer-<name>`, a virtual environment, for each name of `PACKAGES`.
        install: make the environments that are missing.
    """

    folder: Path | None
    install: bool

    def interpreter(self, name: str) -> Path:
        """Python of the environment `name`, made first where allowed.

        Raises:
            Unavailable: it is not there, or cannot be made.
        """
        if self.folder is None:
            raise Unavailable("no --environments folder given")
        python = self.folder.absolute() / f"peer-{name}" / "bin" / "python"
        if python.exists():
            return python
        if not self.install:
            raise Unavailable(f"{python} does not exist; --install makes it")
        print(f"making {python.parent.parent}", flush=True)
        for command in (
            [sys.executable, "-m", "venv", str(python.parent.parent)],
            [str(python), "-m", "pip", "install", "--quiet", *PACKAGES[name]],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise Unavailable(f"{command[-1]}: {last_line(done.stderr)}")
        return python
