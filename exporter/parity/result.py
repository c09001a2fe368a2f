"""What a parity check found: figures of outputs, layers and decisions, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from exporter.artifact.files import FileRecord
from exporter.metrics.decisions import Decision
from exporter.metrics.figures import Figures
from exporter.metrics.tally import Tally
from exporter.model.model_shape import ModelShape
from exporter.parity.limits import HIGHER_IS_BETTER, Limit, Limits
from exporter.parity.runners import Layers

FIRST_LAYER = "first layer outside its limits"


class Level(str, Enum):
    """What a check is about."""

    OUTPUT = "output"
    LAYER = "layer"
    DECISION = "decision"


@dataclass(frozen=True)
class SideInfo:
    """One side of a comparison, as reports name it.

    Attributes:
        name: what the user gave, or the folder.
        kind: "checkpoint", "artifact", "onnx", "engine" or "saved outputs".
        precision: of its numbers.
        runtime: what ran it.
        files: its files with their hashes.
        notes: what a reader should know of it.
    """

    name: str
    kind: str
    precision: str
    runtime: str = ""
    files: tuple[FileRecord, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CaseResult:
    """The figures of one batch.

    Attributes:
        name: what is special about it.
        data_set: that it belongs to.
        shape: of its inputs.
        padding: share of padded positions.
        outputs: figures by output; those of a wrong shape are missing.
        layers: figures by layer.
        tallies: decisions by output.
        worst_texts: the text with the largest error, by output or layer, where there is one.
        seconds: of the run, by "reference" and "candidate".
        problem: why outputs cannot be compared, if they cannot.
    """

    name: str
    data_set: str
    shape: tuple[int, ...]
    padding: float
    outputs: Mapping[str, Figures]
    layers: Mapping[str, Figures]
    tallies: Mapping[str, Tally]
    worst_texts: Mapping[str, str]
    seconds: Mapping[str, float]
    problem: str | None = None

    def figures(self, subject: str) -> Figures | None:
        """Of an output or a layer; None where it was not compared in this batch."""
        return self.outputs.get(subject) or self.layers.get(subject)


@dataclass(frozen=True)
class Check:
    """One limit applied to one output or layer over a data set.

    Attributes:
        data_set: name of it.
        level: what is checked.
        subject: name of the output or the layer.
        limit: what is permitted.
        value: what was measured; the worst single case for a maximum or minimum. None where there
            is nothing to measure, which passes.
        case: the case that shows it worst.
        text: its text with the largest error, if the inputs are texts.
    """

    data_set: str
    level: Level
    subject: str
    limit: Limit
    value: float | None
    case: str
    text: str | None

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit."""
        return self.value is None or self.limit.holds(self.value)

    def __str__(self) -> str:
        """One line: output, metric, value, limit, worst case."""
        name = self.limit.metric.value
        relation = "at least" if self.limit.metric in HIGHER_IS_BETTER else "at most"
        value = "none" if self.value is None else f"{self.value:.4g}"
        line = f"{self.subject}: {name} {value}, permitted {relation} {self.limit.bound:g}"
        line += f"; worst in {self.data_set!r}, {self.case!r}"
        return line + (f", text {self.text[:60]!r}" if self.text else "")


@dataclass(frozen=True, eq=False)
class DataSetResult:
    """All of one data set together.

    Attributes:
        name: of the data set.
        inputs: examples.
        layer_inputs: examples whose layers were compared.
        outputs: figures by output.
        layers: figures by layer.
        tallies: decisions by output.
        checks: every limit on every output and layer.
        problems: outputs that could not be compared.
    """

    name: str
    inputs: int
    layer_inputs: int
    outputs: Mapping[str, Figures]
    layers: Mapping[str, Figures]
    tallies: Mapping[str, Tally]
    checks: tuple[Check, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class LayerFault:
    """The first layer that leaves its limits, and the check that it fails by most."""

    layer: str
    check: Check


@dataclass(frozen=True, eq=False)
class Errors:
    """How the errors of the outputs are spread.

    Attributes:
        edges: `(N + 1,)`, decimal logarithms of |error| / largest reference.
        counts: int64 `(N,)`, of a sample of the elements; smaller and larger ones are in the
            first and last.
        exact: elements of the sample without any error.
        points: `(P, 2)`, reference and candidate of some elements.
    """

    edges: np.ndarray[tuple[int], np.dtype[np.float64]]
    counts: np.ndarray[tuple[int], np.dtype[np.int64]]
    exact: int
    points: np.ndarray[tuple[int, int], np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class ParityResult:
    """All figures of a comparison and its verdict; true when everything is within the limits.

    Attributes:
        reference: the one side.
        candidate: the other.
        shape: the model; None where the candidate could not be run.
        decision: what is read from its outputs.
        limits: what it was held to.
        data_sets: results of each.
        cases: figures of each batch.
        layers: names of the layers compared, or why there are none.
        errors: how errors are spread, by output.
        problems: what fails besides the checks: files that changed, outputs of a wrong shape.
        notes: what a reader should know, without a part in the verdict.
        cached: batches whose reference was not run again.
        environment: versions and machine.
        seconds: time of the runs, by "reference" and "candidate".
    """

    reference: SideInfo
    candidate: SideInfo
    shape: ModelShape | None
    decision: Decision
    limits: Limits
    data_sets: tuple[DataSetResult, ...]
    cases: tuple[CaseResult, ...]
    layers: Layers
    errors: Mapping[str, Errors]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    cached: int
    environment: Mapping[str, str]
    seconds: Mapping[str, float]

    def __bool__(self) -> bool:
        return not self.problems and all(check.passed for check in self.checks)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of all data sets."""
        return tuple(check for part in self.data_sets for check in part.checks)

    @property
    def first_fault(self) -> LayerFault | None:
        """The first layer that leaves its limits; None where none does."""
        failed = [c for c in self.checks if c.level is Level.LAYER and not c.passed]
        for layer in self.layers.names:
            mine = [check for check in failed if check.subject == layer]
            if mine:
                return LayerFault(layer, max(mine, key=excess))
        return None

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each thing that fails, the first layer that does before everything else."""
        fault = self.first_fault
        lines = []
        if fault is not None:
            lines.append(f"{FIRST_LAYER}: {fault.check}")
        failed = [check for check in self.checks if not check.passed]
        rest = [str(c) for c in failed if fault is None or c is not fault.check]
        return (*self.problems, *lines, *rest)


def excess(check: Check) -> float:
    """How far a check is outside its limit, as a ratio; above 1 where it fails."""
    value, bound = check.value, check.limit.bound
    if value is None:
        return 0.0
    if not np.isfinite(value):
        return float("inf")
    if check.limit.metric in HIGHER_IS_BETTER:
        value, bound = 1.0 - value, 1.0 - bound
    if bound <= 0:
        return float("inf") if value > 0 else 0.0
    return value / bound


@dataclass
class Known:
    """What is known before the models run: failures and remarks.

    Attributes:
        problems: part of the verdict.
        notes: not part of it.
    """

    problems: Sequence[str] = ()
    notes: Sequence[str] = field(default=())
