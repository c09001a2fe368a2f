"""The fp32 export of a checkpoint, kept: every precision starts from it; tracing takes longest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.deberta.checkpoint import Checkpoint
from exporter.graph.export import GraphSummary, export_onnx


class ExportCache:
    """`export_onnx` that runs once for the same checkpoint and options, and copies from then on.

    For tests of what comes after the export; those of the export itself call the real one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._summaries: dict[str, GraphSummary] = {}
        self.runs = 0

    def export(
        self,
        checkpoint: Checkpoint,
        path: Path,
        *,
        external_data: bool | None = None,
        metadata: dict[str, str] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> GraphSummary:
        """As `exporter.graph.export.export_onnx`, without messages of a kept one."""
        options: Any = (checkpoint.task, path.name, external_data, sorted((metadata or {}).items()))
        digest = hashlib.sha256(repr(options).encode())
        for file in checkpoint.files:
            digest.update(file.name.encode() + file.read_bytes())
        key = digest.hexdigest()
        kept = self._folder / key
        if key not in self._summaries:
            kept.mkdir()
            self._summaries[key] = export_onnx(
                checkpoint,
                kept / path.name,
                external_data=external_data,
                metadata=metadata,
                progress=progress,
            )
            self.runs += 1
        for file in kept.iterdir():
            shutil.copyfile(file, path.with_name(file.name))
        return self._summaries[key]
