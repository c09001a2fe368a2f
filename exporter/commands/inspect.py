"""`deb-export inspect`: what is in an artifact folder or an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options.shared import FILE, debug_option, write_json
from exporter.console import size_text
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.artifact.files import FileProblem
    from exporter.artifact.graph_description import GraphDescription
    from exporter.artifact.manifest import Manifest
    from exporter.engine.plan_description import PlanDescription

_MODEL_FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
    "pos_att_type",
)


@click.command()
@click.argument("path", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def inspect(path: Path, as_json: bool) -> int:
    """Describe PATH, an artifact folder, an .onnx file or a .plan.

    Exits with 1 when a file of an artifact is missing or has changed.
    """
    from exporter.engine.plan_description import PlanDescription, plan_lines

    found = _describe(path)
    if isinstance(found, ArtifactDescription):
        content, lines = _artifact_json(found), _artifact_lines(found)
        code = 1 if found.problems else 0
    elif isinstance(found, PlanDescription):
        content, lines = found.to_dict(), plan_lines(found)
        code = 1 if found.problems else 0
    else:
        content, lines, code = _graph_json(found), _graph_lines(found), 0
    if as_json:
        write_json(Path("-"), content)
    else:
        click.echo("\n".join(lines))
    return code


@dataclass(frozen=True)
class ArtifactDescription:
    """An artifact folder: its manifest, what has changed since, and its graph."""

    folder: Path
    manifest: Manifest
    problems: tuple[FileProblem, ...]
    graph: GraphDescription | None


def _describe(path: Path) -> ArtifactDescription | GraphDescription | PlanDescription:
    """What is at a path.

    Raises:
        InputError: there is nothing, or something that this version cannot read.
    """
    from exporter.artifact.files import verify_files
    from exporter.artifact.graph_description import describe_graph
    from exporter.artifact.manifest import MANIFEST, read_manifest
    from exporter.engine.plan_description import describe_plan

    if path.is_dir():
        if not (path / MANIFEST).is_file():
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


def _artifact_json(found: ArtifactDescription) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "manifest": found.manifest.to_dict(),
        "problems": [asdict(problem) for problem in found.problems],
        "graph": found.graph and _graph_json(found.graph),
    }


def _graph_json(graph: GraphDescription) -> dict[str, Any]:
    return {**asdict(graph), "path": str(graph.path)}


def _artifact_lines(found: ArtifactDescription) -> Iterator[str]:
    from exporter.engine.targets import skipped_text
    from exporter.precision.quantized.report import quantization_lines

    manifest = found.manifest
    yield f"artifact   {found.folder}"
    yield f"task       {manifest.task}, {manifest.precision}, for {', '.join(manifest.targets)}"
    if manifest.skipped:
        yield f"not built  {skipped_text(manifest.skipped)}"
    source = "the built-in demo" if manifest.source.demo else manifest.source.folder
    yield f"made       {manifest.created} by {manifest.tool} from {source}"
    yield f"shapes     batch {manifest.batch}, length {manifest.seq}"
    known = {name: manifest.model[name] for name in _MODEL_FIELDS if name in manifest.model}
    yield "model      " + ", ".join(f"{name} {value}" for name, value in known.items())
    labels = [f"{index} {label}" for index, label in list(manifest.labels.items())[:10]]
    yield "labels     " + ", ".join(labels) + (" ..." if len(manifest.labels) > 10 else "")
    yield f"parity     {'pass' if manifest.passed else 'FAIL'} ({manifest.parity.report})"
    for failure in manifest.parity.failures:
        yield f"           {failure}"
    for record in manifest.files:
        yield f"file       {record.path}  {size_text(record.bytes)}  sha256 {record.sha256[:16]}"
    quantization = manifest.graph.get("quantization")
    if quantization is not None:
        for line in quantization_lines(quantization):
            yield f"           {line}"
    for engine in manifest.engines:
        profiles = "; ".join(map(str, engine.profiles))
        yield f"engine     {engine.file}  {engine.target} {engine.version}, {profiles}"
    for problem in found.problems:
        yield f"CHANGED    {problem.path} {problem.problem}"
    if found.graph is not None:
        yield from _graph_lines(found.graph)


def _graph_lines(graph: GraphDescription) -> Iterator[str]:
    beside = f", weights in {', '.join(graph.external_files)}" if graph.external_files else ""
    yield f"graph      {graph.path}  {size_text(graph.bytes)}{beside}"
    opsets = ", ".join(f"{domain} {number}" for domain, number in graph.opsets.items())
    yield f"format     IR {graph.ir_version}, opset {opsets}, by {graph.producer}"
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            yield f"{kind:10} {value.name}  {value.dtype}  ({', '.join(value.shape)})"
    for dtype, weights in graph.weights.items():
        size = size_text(weights.bytes)
        yield f"weights    {dtype}  {weights.tensors} tensors, {weights.elements} values, {size}"
    layers = "an unknown number of" if graph.layers is None else graph.layers
    yield f"attention  {graph.attention_nodes} nodes for {layers} layers"
    for name, nodes in graph.functions.items():
        yield f"function   {name}  {nodes} nodes"
    total = sum(graph.operators.values())
    counts = ", ".join(f"{name} {count}" for name, count in graph.operators.items())
    yield f"operators  {total}: {counts}"
    for key, text in graph.metadata.items():
        yield f"metadata   {key} = {text[:100]}"
