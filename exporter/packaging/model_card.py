"""The model card of a hub folder: what is in it, its figures, and how clients load it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from exporter.artifact.manifest import Manifest
from exporter.console import one_line, size_text
from exporter.model.task import Task
from exporter.packaging.load_examples import PIPELINES, load_examples


@dataclass(frozen=True)
class Packaged:
    """A graph of the folder: its file there, its bytes with weights beside it, the manifest of its
    artifact, and the content of that artifact's parity.json."""

    file: str
    bytes: int
    manifest: Manifest
    report: Mapping[str, Any]


def model_card(name: str, graphs: Sequence[Packaged]) -> str:
    """The text of README.md for a folder `name` with `graphs`, all of one checkpoint.

    Every figure is from the parity.json of the graph's artifact.
    """
    manifest = graphs[0].manifest
    task = Task(manifest.task)
    dims = "(batch, choices, length)" if task is Task.MULTIPLE_CHOICE else "(batch, length)"
    lines = [
        "---",
        f"pipeline_tag: {PIPELINES[task]}",
        "tags:",
        *(f"- {tag}" for tag in ("onnx", "deberta-v2", "transformers.js")),
        "---",
        "",
        f"# {name}",
        "",
        f"A DeBERTa-v2 model with the head {task} as ONNX, exported by {manifest.tool} and "
        "compared with its checkpoint in PyTorch, in fp32.",
        "",
        f"Inputs, int64 of any `{dims}`: {_names(manifest.inputs)}; texts are cut to "
        f"{manifest.seq.max} tokens. Outputs: {_names(manifest.outputs)}.",
    ]
    if "classification" in task.value:
        labels = (f"{index} {one_line(label)}" for index, label in sorted(manifest.labels.items()))
        lines += ["", f"Labels: {', '.join(labels)}."]
    lines += ["", "## Files", "", *_table(_COLUMNS, map(_file_cells, graphs))]
    lines += ["", _FIGURES, *_remarks(graphs)]
    lines += ["", "## How to load it", "", load_examples(name, manifest, graphs[0].file)]
    lines += ["", "## Parity"]
    for graph in graphs:
        lines += ["", f"### {graph.file}", "", _compared(graph), ""]
        lines += _table(("what", "metric", "value", "permitted"), _checks(graph.report))
    return "\n".join(lines) + "\n"


_COLUMNS = (
    "file", "precision", "size", "parity", "largest error", "rms error", "decisions equal",
    "mean KL (nats)", "accuracy",
)  # fmt: skip
_FIGURES = (
    "Against the checkpoint, over all inputs of the check: errors relative to the largest and the "
    "rms value of an output; decisions beside near ties; accuracy where the inputs have labels, in "
    "brackets the checkpoint's."
)


def _file_cells(graph: Packaged) -> tuple[str, ...]:
    """The row of a graph: the worst of its outputs and data sets, decisions of all together."""
    sets = graph.report["data_sets"]
    figures = [figure for item in sets for figure in item["outputs"].values()]
    decided = [found for item in sets for found in item["decisions"].values()]
    count = sum(found["decisions"] for found in decided)
    equal = sum(found["equal"] for found in decided)
    labelled = [found for found in decided if found["labelled"]]
    return (
        f"`{graph.file}`",
        graph.manifest.precision,
        size_text(graph.bytes),
        "within its limits" if graph.report["passed"] else "**outside its limits**",
        _number(max((figure["max_relative"] or 0.0 for figure in figures), default=None)),
        _number(max((figure["rms_relative"] or 0.0 for figure in figures), default=None)),
        f"{equal} of {count}" if count else "",
        _number(max((found["mean_kl"] or 0.0 for found in decided), default=None)),
        ", ".join(
            f"{found['candidate_accuracy']:.4f} ({found['reference_accuracy']:.4f})"
            for found in labelled
        ),
    )


def _compared(graph: Packaged) -> str:
    report = graph.report
    inputs = sum(item["inputs"] for item in report["data_sets"])
    names = ", ".join(f"{item['name']} ({item['inputs']})" for item in report["data_sets"])
    verdict = "passed" if report["passed"] else f"**failed** in {len(report['failures'])} points"
    return (
        f"{report['candidate']['runtime']} against {report['reference']['runtime']}, {inputs} "
        f"inputs: {names}. The check {verdict}."
    )


def _checks(report: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Of each output, and of all layers, the check of a metric that is nearest its limit."""
    least = {
        item["metric"] for item in report["limits"]["metrics"] if item["permitted"] == "at least"
    }
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for check in report["checks"]:
        subject = "layers" if check["level"] == "layer" else check["subject"]
        if check["value"] is not None:
            groups.setdefault((subject, check["metric"]), []).append(check)
    for (subject, metric), checks in groups.items():
        high = metric in least
        worst = max(checks, key=lambda check: _excess(check["value"], check["bound"], high))
        relation = ">=" if high else "<="
        value = _number(worst["value"])
        value = value if all(check["passed"] for check in checks) else f"**{value}**"
        yield subject, metric, value, f"{relation} {worst['bound']:g}"


def _excess(value: float, bound: float, high: bool) -> float:
    if high:
        value, bound = 1.0 - value, 1.0 - bound
    return value / bound if bound > 0 else (inf if value > 0 else 0.0)


def _remarks(graphs: Sequence[Packaged]) -> Iterator[str]:
    for graph in graphs:
        quantized = graph.manifest.graph.get("quantization") or {}
        if entries := quantized.get("onnxruntime_session"):
            named = ", ".join(f"`{key}` = `{value}`" for key, value in entries.items())
            yield ""
            yield (
                f"`{graph.file}`: on x86 processors without VNNI, ONNX Runtime needs the session "
                f"entry {named}, or sums of 8-bit products saturate."
            )
        if graph.manifest.half == "bf16":
            yield ""
            yield f"`{graph.file}`: ONNX Runtime has no bf16 on a CPU; it is for GPUs."


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.9f}" if 0.999 < value < 1 else f"{value:.3g}"
