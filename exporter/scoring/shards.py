"""The plan of a run: its inputs cut into shards, each with the file that its answers go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from calibration.text_columns import Columns
from exporter.errors import InputError
from exporter.inputs.row_files import WITH_HEADER, form_of, header_of, sections_of
from exporter.inputs.table_rows import Section
from exporter.predictions.predicted import Prediction
from exporter.predictions.prediction_options import PredictionOptions
from exporter.predictions.written import answer_names
from exporter.scoring.score_config import ScoreConfig

ERROR = "error"
"""Column of the reason why a row has no answer."""


@dataclass(frozen=True)
class Shard:
    """Rows that are answered in one file, `part-000000.jsonl` for the first."""

    index: int
    section: Section
    file: str


@dataclass(frozen=True)
class Work:
    """What all shards of a run have in common, and what a replica is told."""

    artifact: Path
    provider: str
    output: Path
    form: str
    columns: Columns
    prefix: str
    predictions: PredictionOptions
    entities: tuple[str, ...] | None


def output_form(config: ScoreConfig, forms: Sequence[str]) -> str:
    """The format of the shards, given those of the inputs.

    Raises:
        InputError: one was asked for that needs columns which are known before the rows.
    """
    common = set(forms)
    if config.form is None:
        return forms[0] if len(common) == 1 and forms[0] in WITH_HEADER else "jsonl"
    if config.form in WITH_HEADER and not common <= set(WITH_HEADER):
        other = next(form for form in forms if form not in WITH_HEADER)
        raise InputError(
            f"--format {config.form}: rows of {other} have no fixed columns; give --format jsonl"
        )
    return config.form


def input_forms(config: ScoreConfig) -> list[str]:
    """The format of each input; an InputError where one cannot be read."""
    return [form_of(path) for path in config.inputs]


def plan_shards(config: ScoreConfig, forms: Sequence[str], kind: type[Prediction]) -> list[Shard]:
    """The shards, in the order of the rows.

    Raises:
        InputError: an input cannot be read, lacks the column of the texts, or has one of the
            answer's.
    """
    added = answer_columns_of(config.prefix, kind)
    for path, form in zip(config.inputs, forms, strict=True):
        taken = set(header_of(path, form, config.columns) or ()) & set(added)
        if taken:
            raise InputError(f"{path}: has a column {min(taken)!r}; choose another --prefix")
    ending = output_form(config, forms)
    sections = chain.from_iterable(
        sections_of(path.absolute(), form, config.shard_rows)
        for path, form in zip(config.inputs, forms, strict=True)
    )
    return [
        Shard(index, section, f"part-{index:06}.{ending}") for index, section in enumerate(sections)
    ]


def answer_columns_of(prefix: str, kind: type[Prediction]) -> list[str]:
    """Names of the columns that a run adds to each row."""
    return [f"{prefix}{name}" for name in (*answer_names(kind), ERROR)]
