"""`deb-export score`: files of rows labelled, in one process or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from calibration.text_columns import Columns
from exporter.commands.options.predictions import prediction_options
from exporter.commands.options.runtime import runtime_options
from exporter.commands.options.shared import (
    FILE,
    artifact_argument,
    config_options,
    debug_option,
    take,
)
from exporter.predictions.prediction_options import PredictionOptions
from exporter.progress import ProgressLine
from exporter.runtime.runtime_options import RuntimeOptions
from exporter.scoring.score_config import OUTPUT_FORMS, ScoreConfig


@click.command()
@artifact_argument
@click.argument("inputs", nargs=-1, required=True, type=FILE, metavar="INPUT...")
@click.option("--output", required=True, type=FILE, metavar="DIR", help="Folder of the shards.")
@config_options(
    Columns,
    {
        "--text-column text NAME": "Column of the texts.",
        "--pair-column pair NAME": "Column of the other text of each: of a question, its context.",
        "--choices-column choices NAME": "Column of the choices of each, a list.",
    },
)
@config_options(
    ScoreConfig,
    {
        "--prefix TEXT": "What the names of the answer's columns begin with.",
        f"--format form {'|'.join(OUTPUT_FORMS)}": "Format of the shards.  [default: that of the "
        "inputs; JSON lines for text]",
        "--shard-rows": "Rows of a shard.",
        "--resume": "Go on with the run that was stopped in DIR.",
        "--ray local|ADDRESS": "Run on Ray: on this machine, or on a cluster.",
        "--replicas": "Copies of the model on Ray.  [default: as many as there is room for]",
        "--provider NAME": "Runtime: cpu, openvino, cuda, ort-tensorrt, tensorrt, tensorrt-rtx or "
        "torch.",
    },
)
@click.option(
    "--entities",
    metavar="LABEL,...",
    help="Labels that a GLiNER model finds in each text.  [default: the choices of each row]",
)
@prediction_options
@runtime_options
@debug_option
def score(
    artifact: Path, inputs: tuple[Path, ...], output: Path, entities: str | None, **given: Any
) -> int:
    """Write each row of INPUT with what ARTIFACT predicts for it to shards in DIR, in order.

    INPUT is Parquet, CSV, JSON lines or text. A row that cannot be scored is kept, with the reason
    in the column error; the exit code is 1 where none of them could.
    """
    from exporter.scoring.score_files import score as score_files

    columns, options = take(Columns, given), take(RuntimeOptions, given)
    predictions = take(PredictionOptions, given)
    config = ScoreConfig(
        artifact,
        inputs,
        output,
        columns=columns,
        options=options,
        predictions=predictions,
        entities=None if entities is None else tuple(map(str.strip, entities.split(","))),
        **given,
    )
    with ProgressLine() as progress:
        result = score_files(config, progress)
    speed = result.scored / max(result.seconds, 1e-9)
    without = f"; {result.failed} without an answer, see {config.prefix}error"
    click.echo(
        f"{output}: {result.rows} rows in {result.shards} shards, {result.scored} scored at "
        f"{speed:.0f} rows/s{without if result.failed else ''}"
    )
    return 1 if result.failed == result.rows > 0 else 0
