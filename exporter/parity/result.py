"""What a parity check found: figures of outputs, layers and decisions, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import fsum, inf, isfinite

from exporter.artifact.engine_record import NOT_JUDGED, EngineParity
from exporter.artifact.files import FileRecord
from exporter.environment import environment
from exporter.metrics.answers import Answers
from exporter.metrics.error_spread import Errors
from exporter.metrics.figures import Figures
from exporter.metrics.tally import Tally
from exporter.model.model_shape import ModelShape
from exporter.parity.limits import HIGHER_IS_BETTER, Level, Limit, Limits
from exporter.parity.runners import Layers
from exporter.parity.stagewise import StageFigures

FIRST_LAYER = "first layer outside its limits"
EXPORT = "export in fp32"


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
        answers: what the task's user reads; None where that is the decisions.
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
    answers: Answers | None = None


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
        answers: what the task's user reads; None where that is the decisions.
        problems: outputs that could not be compared.
        checks: every limit on every output and layer.
    """

    name: str
    inputs: int
    layer_inputs: int
    outputs: Mapping[str, Figures]
    layers: Mapping[str, Figures]
    tallies: Mapping[str, Tally]
    answers: Answers | None
    problems: tuple[str, ...]
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, eq=False)
class EngineResult:
    """An engine of the artifact that was judged, or why nothing ran it.

    Attributes:
        file: its name in the artifact.
        result: what was found; None where it cannot run here.
        reason: why not.
    """

    file: str
    result: ParityResult | None
    reason: str = ""

    @property
    def parity(self) -> EngineParity:
        """As the manifest records it."""
        if self.result is None:
            return EngineParity(NOT_JUDGED, self.reason)
        return EngineParity("passed" if self.result else "failed", "", self.result.failures)


@dataclass(frozen=True, eq=False)
class ParityResult:
    """All figures of a comparison and its verdict; true when everything is within the limits.

    Attributes:
        reference: the one side.
        candidate: the other.
        shape: the model.
        limits: what it was held to.
        layers: names of the layers compared, or why there are none.
        data_sets: results of each; empty where the candidate could not be run.
        cases: figures of each batch.
        errors: how errors are spread, by output.
        stages: how far each stage of a planned graph is from its plan.
        problems: what fails besides the checks: files that changed, outputs of a wrong shape.
        notes: what a reader should know, without a part in the verdict.
        cached: batches whose reference was not run again.
        noise: whether limits are relative to what rounding alone does to the model.
        export: the fp32 graph that the candidate was made of, against the reference; None where it
            is the candidate itself, or is not there.
        engines: those that were made of the candidate.
        environment: versions and machine.
    """

    reference: SideInfo
    candidate: SideInfo
    shape: ModelShape
    limits: Limits
    layers: Layers
    data_sets: tuple[DataSetResult, ...] = ()
    cases: tuple[CaseResult, ...] = ()
    errors: Mapping[str, Errors] = field(default_factory=dict)
    stages: tuple[StageFigures, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cached: int = 0
    noise: bool = False
    export: ParityResult | None = None
    engines: tuple[EngineResult, ...] = ()
    environment: Mapping[str, str] = field(default_factory=environment)

    def __bool__(self) -> bool:
        parts = [self.export, *(engine.result for engine in self.engines)]
        wrong = self.problems or any(stage.failure for stage in self.stages)
        own = not wrong and all(check.passed for check in self.checks)
        return own and all(part is None or bool(part) for part in parts)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of all data sets."""
        return tuple(check for part in self.data_sets for check in part.checks)

    @property
    def judged_by(self) -> str:
        """What could see a fault: "stages" against a plan, else limits relative to "noise", or
        constant "limits"."""
        return "stages" if self.stages else "noise" if self.noise else "limits"

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """The decisions of every output in every data set."""
        return tuple(tally for item in self.data_sets for tally in item.tallies.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Time of the runs, by "reference" and "candidate"."""
        sides = ("reference", "candidate")
        return {side: fsum(case.seconds[side] for case in self.cases) for side in sides}

    @property
    def first_fault(self) -> Check | None:
        """The check that the first layer outside its limits fails by most, of the export first."""
        exported = None if self.export is None else self.export.first_fault
        return exported or self._own_fault

    @property
    def _own_fault(self) -> Check | None:
        failed = [c for c in self.checks if c.level is Level.LAYER and not c.passed]
        if not failed:
            return None
        first = min((check.subject for check in failed), key=self.layers.names.index)
        return max((check for check in failed if check.subject == first), key=excess)

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each thing that fails, the first layer that does before everything else."""
        fault = self._own_fault
        export = () if self.export is None else self.export.failures
        first = () if fault is None else (f"{FIRST_LAYER}: {fault}",)
        rest = (str(check) for check in self.checks if not check.passed and check is not fault)
        stages = (stage.failure for stage in self.stages if stage.failure)
        engines = ((item.file, line) for item in self.engines for line in item.parity.failures)
        return (
            *(f"{EXPORT}: {line}" for line in export),
            *self.problems,
            *stages,
            *first,
            *rest,
            *(f"{file}: {line}" for file, line in engines),
        )


def excess(check: Check) -> float:
    """How far a check is outside its limit, as a ratio; above 1 where it fails."""
    value, bound = check.value, check.limit.bound
    if value is None:
        return 0.0
    if not isfinite(value):
        return inf
    if check.limit.metric in HIGHER_IS_BETTER:
        value, bound = 1.0 - value, 1.0 - bound
    if bound <= 0:
        return inf if value > 0 else 0.0
    return value / bound
