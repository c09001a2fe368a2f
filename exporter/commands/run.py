"""`deb-export run`: predictions of an artifact for texts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options.runtime import runtime_options
from exporter.commands.options.shared import (
    artifact_argument,
    debug_option,
    stdout_is_unicode,
    take,
)
from exporter.errors import InputError
from exporter.runtime.runtime_options import RuntimeOptions

if TYPE_CHECKING:
    from exporter.inputs.encode import TextInput


@click.command()
@artifact_argument
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    metavar="TEXT",
    help="Second text of each TEXT: the context of a question, or, for multiple choice, a choice; "
    "repeat it for more.",
)
@click.option(
    "--provider",
    default="cpu",
    help="Runtime: cpu, openvino, cuda, ort-tensorrt, tensorrt, tensorrt-rtx or torch.",
)
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@debug_option
def run(
    artifact: Path,
    texts: tuple[str, ...],
    pairs: tuple[str, ...],
    provider: str,
    as_json: bool,
    **given: Any,
) -> int:
    """Print what ARTIFACT predicts for each TEXT.

    Without TEXT, texts are read from stdin, one a line, a tab between the parts of a pair, or as
    JSON lines. A text longer than the artifact takes is cut, with a warning.
    """
    if not texts and pairs:
        raise InputError("--pair needs a TEXT")
    if not texts and sys.stdin.isatty():
        raise InputError("no TEXT; give one or more, or pipe texts in, one a line")
    from exporter.inputs.text_files import piped_texts
    from exporter.runtime.load import load
    from exporter.runtime.render import render

    with load(artifact, provider, options=take(RuntimeOptions, given)) as session:
        items: Iterable[TextInput] = piped_texts(sys.stdin.buffer)
        if texts:
            items = _join(texts, pairs, session.shape.rank == 3)
        ascii_only = not stdout_is_unicode()
        for prediction in session.stream(items):
            if as_json:
                click.echo(json.dumps(asdict(prediction), ensure_ascii=ascii_only))
            else:
                click.echo(render(prediction))
    return 0


def _join(texts: Sequence[str], pairs: Sequence[str], several: bool) -> list[TextInput]:
    """Texts with their second texts; `several` gives all of these to the one text."""
    if not pairs:
        return list(texts)
    if several:
        if len(texts) != 1:
            raise InputError(f"{len(texts)} texts with --pair; give the choices of one text")
        return [(texts[0], tuple(pairs))]
    if len(texts) != len(pairs):
        raise InputError(f"{len(texts)} texts and {len(pairs)} --pair; give one for each text")
    return list(zip(texts, pairs, strict=True))
