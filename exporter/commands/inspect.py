"""`deb-export inspect`: what is in an artifact folder or an ONNX file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.artifact.files import STDOUT
from exporter.commands.options.shared import (
    FILE,
    FILE_OR_STDOUT,
    debug_option,
    warn_of_old,
    write_json,
)
from exporter.console import one_line, size_text
from exporter.errors import InputError

if TYPE_CHECKING:
    from exporter.artifact.graph_description import GraphDescription
    from exporter.artifact.manifest import Manifest

_MODEL_FIELDS = (
    "num_hidden_layers hidden_size num_attention_heads vocab_size max_position_embeddings "
    "pos_att_type"
).split()


_WAS_A_FLAG = "--json"
"""Stands for the value of that option where it is given without one."""


@click.command()
@click.argument("path", required=False, type=FILE)
@click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value=_WAS_A_FLAG,
    type=FILE_OR_STDOUT,
    metavar="FILE",
    help="Write all of it as JSON; - for stdout.",
)
@debug_option
def inspect(path: Path | None, json_file: Path | None) -> int:
    """Describe PATH, an artifact folder, an .onnx file or a .plan.

    Exits with 1 when a file of an artifact is missing or has changed.
    """
    from exporter.artifact.files import verify_files
    from exporter.artifact.graph_description import describe_graph
    from exporter.artifact.manifest import MANIFEST, read_manifest
    from exporter.engine.plan_description import describe_plan, plan_lines

    path, json_file = _as_today(path, json_file)
    problems: Sequence[object] = ()
    lines: Iterable[str]
    if path.is_dir():
        if not (path / MANIFEST).is_file():
            raise InputError(f"{path}: no manifest.json, so not an artifact; give one, or a .onnx")
        manifest = read_manifest(path)
        problems = found = verify_files(path, manifest.files)
        broken = {problem.path for problem in found}
        intact = [record.path for record in manifest.files if record.path not in broken]
        graphs = [describe_graph(path / name) for name in intact if name.endswith(".onnx")]
        content = {
            "folder": str(path),
            "manifest": manifest.to_dict(),
            "problems": [asdict(problem) for problem in found],
            "graph": _graph_json(graphs[0]) if graphs else None,
        }
        changed = (f"CHANGED    {problem.path} {problem.problem}" for problem in found)
        of_graphs = chain.from_iterable(map(_graph_lines, graphs))
        lines = chain(_manifest_lines(path, manifest), changed, of_graphs)
    elif not path.exists():
        raise InputError(f"{path}: no such file or folder")
    elif path.suffix == ".plan":
        plan = describe_plan(path)
        content, lines, problems = plan.to_dict(), plan_lines(plan), plan.problems
    else:
        graph = describe_graph(path)
        content, lines = _graph_json(graph), _graph_lines(graph)
    if json_file is not None:
        write_json(json_file, content)
    if json_file != STDOUT:
        click.echo("\n".join(lines))
    return 1 if problems else 0


def _as_today(path: Path | None, json_file: Path | None) -> tuple[Path, Path | None]:
    """PATH and the file for JSON, also where --json is written as the flag that it was."""
    if path is None and json_file not in (None, Path(_WAS_A_FLAG)):
        path, json_file = json_file, Path(_WAS_A_FLAG)
    if path is None:
        raise click.UsageError("Missing argument 'PATH'", click.get_current_context())
    if json_file == Path(_WAS_A_FLAG):
        warn_of_old("inspect --json without a file", "--json -")
        json_file = STDOUT
    return path, json_file


def _graph_json(graph: GraphDescription) -> dict[str, Any]:
    return {**asdict(graph), "path": str(graph.path)}


def _manifest_lines(folder: Path, manifest: Manifest) -> Iterator[str]:
    from exporter.engine.targets import skipped_text
    from exporter.precision.quantized.quantization_report import quantization_lines

    yield f"artifact   {folder}"
    yield f"task       {manifest.task}, {manifest.precision}, for {', '.join(manifest.targets)}"
    if manifest.skipped:
        yield f"not built  {skipped_text(manifest.skipped)}"
    source = "the built-in demo" if manifest.source.demo else manifest.source.folder
    yield f"made       {manifest.created} by {manifest.tool} from {source}"
    yield f"shapes     batch {manifest.batch}, length {manifest.seq}"
    known = {name: manifest.model[name] for name in _MODEL_FIELDS if name in manifest.model}
    yield "model      " + ", ".join(f"{name} {value}" for name, value in known.items())
    labels = [f"{index} {one_line(label)}" for index, label in list(manifest.labels.items())[:10]]
    yield "labels     " + ", ".join(labels) + (" ..." if len(manifest.labels) > 10 else "")
    yield f"parity     {'pass' if manifest.passed else 'FAIL'} ({manifest.parity.report})"
    yield from (f"           {failure}" for failure in manifest.parity.failures)
    for record in manifest.files:
        yield f"file       {record.path}  {size_text(record.bytes)}  sha256 {record.sha256[:16]}"
    if quantization := manifest.graph.get("quantization"):
        yield from (f"           {line}" for line in quantization_lines(quantization))
    for engine in manifest.engines:
        profiles = "; ".join(map(str, engine.profiles))
        yield f"engine     {engine.file}  {engine.target} {engine.version}, {profiles}"
        yield f"           {engine.parity}"


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
    yield from (f"metadata   {key} = {text[:100]}" for key, text in graph.metadata.items())
