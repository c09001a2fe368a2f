"""`deb-export bench`: speed of an artifact beside other graphs and runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from exporter.artifact.files import write_output
from exporter.bench.bench_config import BenchConfig, parse_shape
from exporter.commands.options.runtime import runtime_options
from exporter.commands.options.shared import (
    FILE,
    FILE_OR_STDOUT,
    RenamingCommand,
    artifact_argument,
    config_options,
    debug_option,
    take,
    write_json,
)
from exporter.errors import InputError
from exporter.progress import ProgressLine
from exporter.runtime.runtime_options import RuntimeOptions


@click.command(cls=RenamingCommand, renamed={"--limits": "--limits-of"})
@artifact_argument
@config_options(
    BenchConfig,
    {
        "--against FILE.onnx": "Another graph of the same model; may be repeated.",
        "--provider providers": "Runtime: cpu, openvino, cuda, ort-tensorrt, tensorrt, "
        "tensorrt-rtx or torch; may be repeated. The artifact on the first is what all others are "
        "compared with.",
    },
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="BATCHxLENGTH",
    help="Inputs to time; may be repeated.  [default: 1x128 and 8x128, none with --data]",
)
@config_options(
    BenchConfig,
    {
        "--data": "Texts to time as they come, from text to prediction: a line each, or JSONL.",
        "--texts": "Texts of the file, from the first.",
        "--rounds": "Runs of each contender, in turn.",
        "--warmup": "Runs of each before, not counted.",
        "--limits-of limits PRECISION": "Whose limits the outputs are held to.  [default: the "
        "artifact's precision]",
    },
)
@click.option(
    "--json",
    "json_file",
    type=FILE_OR_STDOUT,
    help="Write all figures to this file; - for stdout, instead of the table.",
)
@click.option("--plot", type=FILE, metavar="FILE.svg", help="Draw the latencies.")
@runtime_options
@debug_option
def bench(artifact: Path, json_file: Path | None, plot: Path | None, **given: Any) -> int:
    """Time ARTIFACT beside other graphs and runtimes.

    The outputs of all are compared first. One that is wrong is named, not timed, and makes the exit
    code 1.
    """
    from exporter.bench.bench_report import to_json, to_table
    from exporter.bench.measure import bench as measure
    from exporter.bench.plot import to_svg

    for file in (json_file, plot):
        if file is not None and str(file) != "-" and not file.absolute().parent.is_dir():
            raise InputError(f"{file}: its folder does not exist")
    options = take(RuntimeOptions, given)
    shapes = tuple(parse_shape(text) for text in given.pop("shapes"))
    if not shapes and given["data"] is None:
        shapes = BenchConfig.shapes
    config = BenchConfig(artifact, shapes=shapes, options=options, **given)
    with ProgressLine() as progress:
        result = measure(config, progress)
    if json_file is not None:
        write_json(json_file, to_json(result))
    if plot is not None:
        write_output(plot, to_svg(result))
    if str(json_file) != "-":
        click.echo(to_table(result))
    return 0 if result else 1
