"""`deb-export run`: predictions of an artifact for texts."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from calibration.whole_files import write_whole
from exporter.commands.options.predictions import prediction_options
from exporter.commands.options.runtime import runtime_options
from exporter.commands.options.shared import (
    FILE,
    RenamingCommand,
    artifact_argument,
    debug_option,
    stdout_is_unicode,
    take,
)
from exporter.errors import InputError
from exporter.predictions.prediction_options import PredictionOptions
from exporter.progress import ProgressLine
from exporter.runtime.runtime_options import RuntimeOptions

if TYPE_CHECKING:
    from exporter.inputs.encode import TextInput
    from exporter.predictions.predicted import Prediction
    from exporter.runtime.session import Session

_FORMATS = ("text", "jsonl", "csv")
_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


@click.command(cls=RenamingCommand, renamed={"--input": "--data", "--json": "--format=jsonl"})
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
    "--data",
    "source",
    type=FILE,
    metavar="FILE",
    help="Texts, one a line, as JSON lines, or CSV with the columns text and text_pair.",
)
@click.option(
    "--output",
    type=FILE,
    metavar="FILE",
    help="Write predictions there, as JSON lines or CSV by its ending.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="What predictions are written as.  [default: text, or as --output ends]",
)
@click.option(
    "--zero-shot",
    "labels",
    multiple=True,
    metavar="LABEL",
    help="Which LABEL each text entails, by a model of inference; repeat it for more.",
)
@click.option("--hypothesis", metavar="TEXT", help="Sentence with {} for a label of --zero-shot.")
@click.option(
    "--entities",
    metavar="LABEL,...",
    help="Labels that a GLiNER model finds in each text, with commas between them.",
)
@click.option("--rerank", metavar="QUERY", help="Rank the texts by their relevance to QUERY.")
@click.option(
    "--provider",
    default="cpu",
    help="Runtime: cpu, openvino, cuda, ort-tensorrt, tensorrt, tensorrt-rtx or torch.",
)
@prediction_options
@runtime_options
@debug_option
def run(
    artifact: Path,
    texts: tuple[str, ...],
    pairs: tuple[str, ...],
    source: Path | None,
    output: Path | None,
    form: str | None,
    provider: str,
    **given: Any,
) -> int:
    """Print what ARTIFACT predicts for each TEXT.

    Without TEXT and --data, texts are read from stdin, one a line, a tab between the parts of a
    pair, or as JSON lines, and answered as they come. A text longer than the artifact takes is read
    in windows for entities and answers, and with --windows; else it is cut, with a warning.
    """
    if not texts and pairs:
        raise InputError("--pair needs a TEXT")
    if texts and source is not None:
        raise InputError("TEXT and --data; leave one of them out")
    if not texts and source is None and sys.stdin.isatty():
        raise InputError("no TEXT; give one or more, --data, or pipe texts in, one a line")
    form = form or ("text" if output is None else _SUFFIXES.get(output.suffix.lower()))
    if form is None:
        endings = ", ".join(_SUFFIXES)
        raise InputError(f"--output {output}: its ending says the format: {endings}; or --format")
    from exporter.runtime.load import load

    options = take(PredictionOptions, given)
    with load(artifact, provider, options=take(RuntimeOptions, given)) as session:
        groups = _given(texts, pairs, source, session)
        predictions = _predictions(session, groups, options, **given)
        if output is not None:
            _write(output, _lines(predictions, form))
            return 0
        for line in _lines(predictions, form, ascii_only=not stdout_is_unicode()):
            click.echo(line, nl=False)
    return 0


def _given(
    texts: Sequence[str], pairs: Sequence[str], source: Path | None, session: Session
) -> Iterable[Iterable[TextInput]]:
    """The texts, those of a pipe in groups that have come together."""
    from exporter.inputs.csv_rows import csv_texts
    from exporter.inputs.text_files import arriving_texts, file_texts

    if texts:
        return [_join(texts, pairs, session.shape.rank == 3)]
    if source is None:
        return arriving_texts(cast(BufferedReader, sys.stdin.buffer), session.batching.window)
    return [csv_texts(source) if source.suffix.lower() == ".csv" else file_texts(source)]


def _predictions(
    session: Session,
    groups: Iterable[Iterable[TextInput]],
    options: PredictionOptions,
    *,
    labels: tuple[str, ...],
    hypothesis: str | None,
    rerank: str | None,
    entities: str | None,
) -> Iterable[Prediction]:
    """What the session says, in the mode that the options ask for."""
    modes = {"--rerank": rerank is not None, "--zero-shot": bool(labels)}
    modes["--entities"] = entities is not None
    if len(asked := [name for name, given in modes.items() if given]) > 1:
        raise InputError(f"{' and '.join(asked)}; leave one of them out")
    several = options.multi_label and session.shape.gliner is None
    if not labels and (hypothesis is not None or several):
        raise InputError("--hypothesis and --multi-label are for --zero-shot; give its labels")
    if rerank is not None:
        passages = _single(chain.from_iterable(groups), "--rerank")
        return session.rerank(rerank, passages, options.top_k)
    if labels:
        chosen = {} if hypothesis is None else {"hypothesis": hypothesis}
        return chain.from_iterable(
            session.zero_shot(alone, labels, multi_label=options.multi_label, **chosen)
            for alone in (_single(group, "--zero-shot") for group in groups)
        )
    wanted = None if entities is None else [label.strip() for label in entities.split(",")]
    return chain.from_iterable(session.stream(g, options, entities=wanted) for g in groups)


def _single(items: Iterable[TextInput], mode: str) -> Iterator[str]:
    from exporter.inputs.encode import as_item

    for given in items:
        item = as_item(given)
        if item.second:
            raise InputError(f"{item.text[:60]!r}: {mode} takes single texts, not pairs")
        yield item.text


def _lines(predictions: Iterable[Prediction], form: str, ascii_only: bool = False) -> Iterator[str]:
    from exporter.predictions.render import render
    from exporter.predictions.written import csv_lines, json_line

    if form == "csv":
        yield from csv_lines(predictions)
    for prediction in predictions:
        yield (json_line(prediction, ascii_only) if form == "jsonl" else render(prediction)) + "\n"


def _write(output: Path, lines: Iterable[str]) -> None:
    """All lines to a file, which is there when it is whole."""

    def counted(progress: ProgressLine) -> Iterator[bytes]:
        for count, line in enumerate(lines, 1):
            progress(f"{count} texts")
            yield line.encode()

    try:
        with ProgressLine() as progress:
            write_whole(output, counted(progress))
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror})") from None


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
