"""`deb-export package`: an artifact in the form that a server takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from exporter.artifact.manifest import Manifest, read_manifest
from exporter.commands.options.shared import FILE, config_options, debug_option
from exporter.errors import InputError
from exporter.packaging.triton import DEVICES, TritonOptions, package_triton


@click.command()
@click.argument("artifacts", type=FILE, nargs=-1, required=True, metavar="ARTIFACT...")
@click.option(
    "--triton",
    "repository",
    type=FILE,
    metavar="DIR",
    help="Add the models to this model repository of Triton Inference Server.",
)
@click.option(
    "--plain",
    type=FILE,
    metavar="FILE",
    help="Write the graph with no function in it to this .onnx file, for tools that read none.",
)
@click.option(
    "--hub",
    type=FILE,
    metavar="DIR",
    help="Write a folder as the Hugging Face hub has it, from artifacts of one checkpoint in "
    "several precisions.",
)
@config_options(
    TritonOptions,
    {
        "--name": "Name of the models.  [default: the artifact's folder]",
        "--version": "Version to write.",
        "--instances": "Copies that run at the same time.",
        f"--device {'|'.join(DEVICES)}": "What runs the graph. auto is what the server has, and a "
        "GPU alone for bf16 and for int8 weights of 8 bits, which not every CPU runs right.",
        "--queue-delay queue_microseconds MICROSECONDS": "How long a request may wait for others "
        "to share a batch with.",
    },
)
@debug_option
def package(
    artifacts: tuple[Path, ...],
    repository: Path | None,
    plain: Path | None,
    hub: Path | None,
    **given: Any,
) -> int:
    """Write ARTIFACT as a server, another tool or the hub takes it.

    The server's models take token ids; texts are tokenized by the client.
    """
    options = TritonOptions(**given)
    found = [(artifact, read_manifest(artifact)) for artifact in artifacts]
    if repository is None and plain is None and hub is None:
        raise InputError("nothing to write; give --triton DIR, --plain FILE or --hub DIR")
    if len(found) > 1 and (repository is not None or plain is not None):
        raise InputError(f"{len(found)} artifacts: --triton and --plain take one; --hub takes more")
    artifact, manifest = found[0]
    if plain is not None:
        from exporter.packaging.plain import package_plain

        written = package_plain(artifact, manifest, plain)
        click.echo(f"{', '.join(map(str, written))}: {manifest.task}, {manifest.precision}, plain")
    if hub is not None:
        _package_hub(found, hub)
    if repository is None:
        return 0
    models = package_triton(artifact, manifest, manifest.engines, repository, options)
    for model in models:
        click.echo(f"{model.folder}: {model.backend}, {', '.join(model.files)}")
    left = sorted({e.target for e in manifest.engines} - {"tensorrt"})
    for target in left:
        click.echo(f"not written: the engine of {target}, which no backend of the server runs")
    return 0


def _package_hub(found: list[tuple[Path, Manifest]], hub: Path) -> None:
    from exporter.packaging.hub import package_hub

    files = [str(path) for path in package_hub(found, hub)]
    click.echo(f"{hub}: {', '.join(files)}")
    for folder, manifest in found:
        if not manifest.passed:
            click.echo(f"note: {folder} is outside its parity limits, and the model card says so")
    if "spm.model" in files and "tokenizer.json" not in files:
        click.echo(
            "note: no tokenizer.json: clients other than Python's transformers read no texts"
        )
