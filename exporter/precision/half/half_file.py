"""From an fp32 graph on disk to one in fp16 or bf16: measure, convert, check, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from calibration.graphs import Feeds
from calibration.ranges import measure_ranges
from exporter.graph.check import check_graph, count_attention_nodes
from exporter.graph.write import WrittenModel, write_model
from exporter.precision.half.convert import HalfReport, convert_to_half
from exporter.precision.half.types import HalfName
from exporter.progress import Progress, silent
from exporter.runtime.providers.onnx_session import open_fp32


@dataclass(frozen=True)
class HalfFile:
    """A half-precision graph that was written.

    Attributes:
        written: the files.
        nodes: of the main graph.
        initializers: of the main graph.
        report: what the pass did.
    """

    written: WrittenModel
    nodes: int
    initializers: int
    report: HalfReport


def write_half(
    source: Path,
    target: Path,
    dtype: HalfName,
    batches: Sequence[Feeds],
    *,
    external_data: bool | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> HalfFile:
    """Convert the graph in `source` and write it to `target`.

    Args:
        source: an exported fp32 graph, best with its weights in a data file.
        target: the file to write.
        dtype: the type.
        batches: inputs to measure ranges on, of all lengths and with padding.
        external_data: see `write_model`.
        metadata: entries to set in the graph's metadata.
        progress: told what is going on.

    Raises:
        CalibrationError: no batches, or NaN in a value of the fp32 graph.
        InputError: a weight holds NaN.
        OSError: the file cannot be written.
    """
    ranges = measure_ranges(
        source,
        batches,
        open_fp32,
        progress=lambda done: progress(f"ranges: batch {done} of {len(batches)}"),
    )
    progress("converting")
    model = ir.load(source)
    report = convert_to_half(model, dtype, ranges)
    model.metadata_props.update(metadata or {})
    check_graph(model, count_attention_nodes(model))
    written = write_model(
        model,
        target,
        external_data=external_data,
        progress=lambda done, total: progress(f"writing {100 * done // max(total, 1)} %"),
    )
    nodes, initializers = sum(1 for _ in model.graph), len(model.graph.initializers)
    return HalfFile(written, nodes, initializers, report)
