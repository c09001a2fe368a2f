"""`deb-export build`: a checkpoint becomes an artifact folder."""

from __future__ import annotations

from typing import Any

import click

from exporter.artifact.engine_record import NOT_JUDGED
from exporter.commands.options.engine import engine_options, take_engine_options
from exporter.commands.options.quantization import quantization_options
from exporter.commands.options.shared import (
    FILE,
    RenamingCommand,
    config_options,
    debug_option,
    take,
)
from exporter.console import size_text
from exporter.model.profile import Range
from exporter.model.task import Task
from exporter.pipeline.config import PRECISIONS, TARGETS, BuildConfig
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.progress import ProgressLine


@click.command(cls=RenamingCommand, renamed={"--labels": "--calibration-labels"})
@click.argument("model", required=False, type=FILE)
@config_options(
    BuildConfig,
    {
        "--output": "Folder to write.  [default: artifacts/<model>-<precision>]",
        f"--precision {'|'.join(PRECISIONS)}": "Storage and arithmetic of the graph.",
        f"--target targets {'|'.join(TARGETS)}": "What to build; may be repeated.  [default: the "
        "graph, and engines where they can be built]",
        "--task TASK": f"Head to export: {', '.join(task.value for task in Task)}.  "
        "[default: as config.json says, or else the weights]",
        "--base FOLDER": "Model that the LoRA adapter in MODEL is merged into.  [default: the one "
        "beside it, or that it names]",
        "--strict": "Refuse a checkpoint with tensors that the head does not use.",
        "--batch MIN,OPT,MAX": "Batch sizes that the artifact is meant for.",
        "--seq MIN,OPT,MAX": "Lengths in tokens; longer texts are cut.  [default: up to the "
        "model's maximum]",
        "--data": "Texts for the parity check, with labels or without: a line each, a tab between "
        "the parts of a pair, or JSONL.  [default: the demo's]",
        "--calibration-data": "Texts that int8 takes its scales from, and fp16 its ranges: text or "
        "JSONL.  [default: the demo's]",
        "--external-data/--no-external-data": "Weights in a file beside the graph.  [default: "
        "above 1 GiB]",
        "--last-layer full|first": "Tokens to compute of the last layer.  first is for "
        "heads that read no other.  [default: full]",
        "--plain": "Write the graph a second time, as model.plain.onnx with no function in it, for "
        "tools that read none.",
        "--force": "Replace an existing artifact folder.",
        "--revision": "Of a MODEL on the hub: branch, tag or commit.",
    },
)
@quantization_options
@engine_options
@debug_option
def build(
    batch: str, seq: str | None, task: str | None, targets: tuple[str, ...], **options: Any
) -> int:
    """Build an artifact folder from MODEL, and compare it with MODEL.

    MODEL is a DeBERTa-v2/v3 checkpoint folder in the Hugging Face format, or one of a LoRA adapter,
    or the name of such a model on the Hugging Face hub, org/name; without it, the built-in demo is
    built.
    """
    engine, profiles = take_engine_options(options)
    config = BuildConfig(
        quantization=take(QuantizationOptions, options),
        engine=engine,
        profiles=profiles,
        targets=targets or None,
        batch=Range.parse(batch, "--batch"),
        seq=None if seq is None else Range.parse(seq, "--seq"),
        task=task,
        **options,
    )
    from exporter.engine.targets import skipped_text
    from exporter.parity.report.text import to_table
    from exporter.pipeline.build_artifact import build_and_judge
    from exporter.precision.quantized.quantization_report import quantization_lines

    with ProgressLine() as progress:
        manifest, result = build_and_judge(config, progress)
    quantization = manifest.graph.get("quantization")
    if quantization is not None:
        click.echo("\n".join(quantization_lines(quantization)))
    click.echo(to_table(result))
    for note in manifest.source.notes:
        click.echo(f"note: {note}")
    if manifest.skipped:
        click.echo(f"not built: {skipped_text(manifest.skipped)}")
    size = size_text(sum(item.bytes for item in manifest.files))
    ended = f"{config.output_folder}: {manifest.task}, {manifest.precision}, {size}"
    left = [item.file for item in manifest.engines if item.parity.status == NOT_JUDGED]
    click.echo(ended + (f"; not judged: {', '.join(left)}" if left else ""))
    return 0 if manifest.passed else 1
