"""What is at a path: an artifact, an ONNX file or an engine, without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.artifact.describe import GraphDescription, describe_graph
from exporter.artifact.files import FileProblem, verify_files
from exporter.artifact.manifest import Manifest, is_artifact, read_manifest
from exporter.engine.describe_plan import PlanDescription, describe_plan
from exporter.errors import InputError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ArtifactDescription:
    """An artifact folder: its manifest, what has changed since, and its graph."""

    folder: Path
    manifest: Manifest
    problems: tuple[FileProblem, ...]
    graph: GraphDescription | None


def inspect_path(path: Path) -> ArtifactDescription | GraphDescription | PlanDescription:
    """Describe an artifact folder, an .onnx file or a .plan.

    Raises:
        InputError: there is nothing, or something that this version cannot read.
    """
    if path.is_dir():
        if not is_artifact(path):
            raise InputError(f"{path}: no manifest.json, so not an artifact; give one, or a .onnx")
        manifest = read_manifest(path)
        problems = verify_files(path, manifest.files)
        graphs = [record.path for record in manifest.files if record.path.endswith(".onnx")]
        changed = {problem.path for problem in problems}
        readable = [name for name in graphs if name not in changed]
        graph = describe_graph(path / readable[0]) if readable else None
        return ArtifactDescription(path, manifest, problems, graph)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix == ".plan":
        return describe_plan(path)
    return describe_graph(path)
