"""`deb-export parity`: a finished artifact against the checkpoint that it was built from."""

from __future__ import annotations

from pathlib import Path

import click

from exporter.commands.common import artifact_argument, debug_option, write_json
from exporter.progress import Progress


@click.command()
@artifact_argument
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Texts to compare, one a line, a tab between the parts of a pair.  [default: the demo's]",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Where the source checkpoint is now.  [default: where it was at the build]",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write all figures to this file; - for stdout, instead of the table.",
)
@debug_option
def parity(
    artifact: Path, data: Path | None, checkpoint: Path | None, json_file: Path | None
) -> int:
    """Compare ARTIFACT with the model it was built from, and check that its files are unchanged."""
    from exporter.parity.report import to_json, to_table
    from exporter.verification import verify_artifact

    with Progress() as progress:
        result = verify_artifact(artifact, data, checkpoint, progress)
    if json_file is not None:
        write_json(json_file, to_json(result))
    if str(json_file) != "-":
        click.echo(to_table(result))
    return 0 if result else 1
