"""What to score, with what, and where to: one frozen configuration, checked where it is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from calibration.text_columns import COLUMNS, Columns
from exporter.errors import InputError
from exporter.inputs.row_files import FORMS
from exporter.predictions.prediction_options import DEFAULTS as AS_READ
from exporter.predictions.prediction_options import PredictionOptions
from exporter.runtime.runtime_options import DEFAULTS, RuntimeOptions

OUTPUT_FORMS = FORMS[1:]


@dataclass(frozen=True)
class ScoreConfig:
    """Options of a run.

    Attributes:
        artifact: folder that `deb-export build` wrote.
        inputs: files of rows, in the order in which their answers are to be.
        output: folder of the shards; on a cluster, one that all its machines see.
        columns: names of the columns that hold the texts.
        prefix: what the names of the answer's columns begin with.
        form: format of the shards, one of `OUTPUT_FORMS`; by default that of the inputs.
        shard_rows: rows of a shard, the unit that is written whole and that a replica works on.
        resume: go on with what an earlier run has left in `output`.
        ray: None for this process; "local", or the address of a Ray cluster.
        replicas: copies of the model on Ray; by default as many as the cluster has room for.
        provider, options: how each copy runs; `options.threads` are its CPUs on Ray.
        predictions: what is read of the outputs.
        entities: labels that a GLiNER model is asked for; else the choices of each row.

    Raises:
        InputError: a value that is unknown or out of range.
    """

    artifact: Path
    inputs: tuple[Path, ...]
    output: Path
    columns: Columns = COLUMNS
    prefix: str = "prediction_"
    form: str | None = None
    shard_rows: int = 10_000
    resume: bool = False
    ray: str | None = None
    replicas: int | None = None
    provider: str = "cpu"
    options: RuntimeOptions = DEFAULTS
    predictions: PredictionOptions = AS_READ
    entities: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        from exporter.runtime.load import PROVIDERS, check_options  # here, for a quick --help

        if not self.inputs:
            raise InputError("nothing to score; give a file or more")
        if self.provider not in PROVIDERS:
            known = ", ".join(PROVIDERS)
            raise InputError(f"--provider {self.provider!r}: unknown; choose from {known}")
        if self.form is not None and self.form not in OUTPUT_FORMS:
            known = ", ".join(OUTPUT_FORMS)
            raise InputError(f"--format {self.form!r}: unknown; choose from {known}")
        for name, value in (("--shard-rows", self.shard_rows), ("--replicas", self.replicas)):
            if value is not None and value < 1:
                raise InputError(f"{name} {value}: give at least 1")
        if self.replicas is not None and self.ray is None:
            raise InputError("--replicas: one process has one; add --ray local or --ray ADDRESS")
        if len({self.columns.text, self.columns.pair, self.columns.choices}) < 3:
            raise InputError("two of the columns of texts have one name; give each its own")
        check_options(self.options, self.provider)
