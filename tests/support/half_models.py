"""Half-precision graphs for tests: made, run with half's rounding, and rescaled checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from calibration.ranges import ValueRange
from exporter.graph.transforms.widen import widen
from exporter.graph.write import write_model
from exporter.precision.half.to_half import HalfReport, convert_to_half
from exporter.precision.half.types import HalfName
from support.site_graphs import exact_options

Feeds = Mapping[str, NDArray[np.int64]]


def convert(
    source: Path, dtype: HalfName, ranges: Mapping[str, ValueRange] | None, **options: Any
) -> tuple[Path, HalfReport]:
    """The graph `source` in half precision, written beside it."""
    model = ir.load(source)
    report = convert_to_half(model, dtype, ranges, **options)
    path = source.with_name(f"{source.stem}.{dtype}{'.plain' * (ranges is None)}.onnx")
    write_model(model, path)
    return path, report


def widened(source: Path) -> Path:
    """The graph `source` in fp32 with half's rounding, written beside it."""
    model = ir.load(source)
    widen(model)
    path = source.with_name(f"{source.stem}.widened.onnx")
    write_model(model, path)
    return path


def run(path: Path, feeds: Feeds) -> list[NDArray[np.float32]]:
    """The outputs of a graph in ONNX Runtime on the CPU."""
    return session(path).run(None, dict(feeds))


def session(path: Path, **entries: str) -> onnxruntime.InferenceSession:
    """A quiet session with one thread."""
    options = exact_options()
    options.intra_op_num_threads = 1
    for name, value in entries.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_rounded(path: Path, feeds: Feeds) -> list[NDArray[np.float32]]:
    """The outputs of a half-precision graph with every half value rounded."""
    return run(widened(path), feeds)


def rescale(source: Path, target: Path, what: str, factor: float) -> Path:
    """A copy of a sequence classification checkpoint that computes the same with other numbers.

    Args:
        source: with shared key projections and `norm_rel_ebd`.
        target: folder to write.
        what: "value" multiplies the value projection and divides the output projection; "query"
            multiplies the query projection and divides the key projection; "hidden" multiplies
            all hidden states, and divides the matrices that read them.
        factor: a power of two, so that nothing is rounded.
    """
    shutil.copytree(source, target)
    layers = json.loads((target / "config.json").read_text())["num_hidden_layers"]
    weights = load_file(target / "model.safetensors")

    def multiply(names: Iterable[str], by: float) -> None:
        for name in names:
            weights[name] = weights[name] * by

    def both(name: str) -> tuple[str, str]:
        return f"{name}.weight", f"{name}.bias"

    for index in range(layers):
        layer = f"deberta.encoder.layer.{index}"
        attention = f"{layer}.attention.self"
        if what == "value":
            multiply(both(f"{attention}.value_proj"), factor)
            multiply([f"{layer}.attention.output.dense.weight"], 1 / factor)
        elif what == "query":
            multiply(both(f"{attention}.query_proj"), factor)
            multiply(both(f"{attention}.key_proj"), 1 / factor)
        else:
            for part in ("attention.output", "output"):
                multiply(both(f"{layer}.{part}.dense"), factor)
                multiply(both(f"{layer}.{part}.LayerNorm"), factor)
            readers = [f"{attention}.{part}_proj" for part in ("query", "key", "value")]
            multiply([f"{name}.weight" for name in readers], 1 / factor)
            multiply([f"{layer}.intermediate.dense.weight"], 1 / factor)
    if what == "hidden":
        multiply(both("deberta.embeddings.LayerNorm"), factor)
        multiply(both("deberta.encoder.LayerNorm"), factor)
        multiply(["pooler.dense.weight"], 1 / factor)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target
