"""`deb-export engine`: engines for a finished artifact, on the machine that will run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from exporter.artifact.engine_record import NOT_JUDGED
from exporter.commands.options.engine import engine_options, take_engine_options
from exporter.commands.options.shared import FILE, artifact_argument, debug_option
from exporter.progress import ProgressLine


@click.command()
@artifact_argument
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    metavar="tensorrt|tensorrt-rtx",
    help="Engine to build; may be repeated.",
)
@click.option(
    "--output",
    type=FILE,
    help="Folder to write.  [default: the engine is added to ARTIFACT]",
)
@click.option("--force", is_flag=True, help="Replace another artifact in --output.")
@engine_options
@debug_option
def engine(
    artifact: Path, targets: tuple[str, ...], output: Path | None, force: bool, **options: Any
) -> int:
    """Build engines from ARTIFACT's graph, without its checkpoint, and judge them.

    They are compared with the outputs of the checkpoint that the build kept in ARTIFACT, and so is
    the graph on this machine. Exits with 0 within the limits and 1 outside.
    """
    from exporter.parity.report.text import to_table
    from exporter.pipeline.engine_artifact import EngineConfig, build_engines

    how, profiles = take_engine_options(options)
    config = EngineConfig(artifact, targets, output, force, how, profiles)
    with ProgressLine() as progress:
        manifest, result = build_engines(config, progress)
    if result is None:
        click.echo("not judged: the artifact has no outputs of its reference; build it again")
    else:
        click.echo(to_table(result))
    built = [item for item in manifest.engines if item.target in targets]
    left = [item.file for item in built if item.parity.status == NOT_JUDGED]
    ended = f"{output or artifact}: {', '.join(item.file for item in built)}"
    click.echo(ended + (f"; not judged: {', '.join(left)}" if left else ""))
    return 0 if manifest.passed else 1
