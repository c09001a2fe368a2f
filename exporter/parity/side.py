"""One side of a comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from exporter.environment import package_version
from exporter.model.model_shape import ModelShape
from exporter.model.profile import ShapeProfile
from exporter.parity.result import SideInfo
from exporter.parity.runners import Runner

Open = Callable[[ModelShape], Runner]
_ROOT = Path(__file__).parents[2]
_SOFTWARE = ("torch", "onnxruntime", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True, eq=False)
class Side:
    """One side, opened as far as needed to know what it is; its weights are not loaded.

    Attributes:
        info: as reports name it.
        shape: the model; None for an ONNX file that says nothing of it.
        folder: has the tokenizer; None where there is none.
        longest: largest length in tokens that it takes, None where it does not say.
        opens: each loads it for another runtime; the result is that of the first, and what fails
            in another is a problem of it.
        problems: files that are not what the manifest says.
        profiles: shapes that it takes; empty for all.
        saved: its outputs belong to saved inputs, and it takes no others.
    """

    info: SideInfo
    shape: ModelShape | None
    folder: Path | None
    longest: int | None
    opens: tuple[Open, ...]
    problems: tuple[str, ...] = ()
    profiles: tuple[ShapeProfile, ...] = ()
    saved: bool = False

    @property
    def identity(self) -> str:
        """Hash of its files and of the software that runs it."""
        digest = hashlib.sha256(f"{self.info.kind} {self.info.precision}\n".encode())
        for item in self.info.files:
            digest.update(f"{item.path} {item.sha256}\n".encode())
        for name in _SOFTWARE:
            digest.update(f"{name} {package_version(name)}\n".encode())
        for folder in ("exporter/deberta", "plugins/disentangled_attention"):
            for path in sorted((_ROOT / folder).glob("*.py")):
                digest.update(path.read_bytes())
        return digest.hexdigest()
