"""Reference against candidate: run both on the same inputs and measure.

The reference runs over all inputs and is freed before the candidate is loaded, so two models are
never in memory together; what it gave is kept in a store on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from exporter.errors import InputError, RunError
from exporter.graph.hidden_states import layer_names
from exporter.inputs.cases import DataSet, ParityCase
from exporter.metrics.answers import Answers, answers_of
from exporter.metrics.decisions import Bools, Decided, Decision, Ints, decision_of
from exporter.metrics.error_spread import Errors, ErrorSpread
from exporter.metrics.figures import (
    Figures,
    Floats,
    Rows,
    Scale,
    ScaleSum,
    measure,
    moments_of,
    rows_of,
)
from exporter.metrics.gliner_answers import found_spans
from exporter.metrics.tally import Tally, merge, tally
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task, last_layer_of
from exporter.parity.result import CaseResult
from exporter.parity.runners import Layers, Observation, Runner
from exporter.parity.side import Side
from exporter.parity.store import ReferenceStore, entry_key
from exporter.progress import Progress

Observer: TypeAlias = "Callable[[Batch, Observation, Observation], None]"

LAYER_BYTES = 3 << 28
"""Hidden states of all layers are kept of the first inputs, 768 MiB at most; outputs of all."""


@dataclass(frozen=True)
class Batch:
    """One batch of a data set, and whether its layers are compared."""

    data_set: str
    case: ParityCase
    layers: bool


@dataclass(frozen=True)
class Reference:
    """What the reference gave; the arrays are in the store, under the key of each batch.

    `name` is the runtime that computed it, `scales` are of each output and layer over all batches,
    and `cached` batches did not run again.
    """

    name: str
    shape: ModelShape
    layers: Layers
    batches: tuple[Batch, ...]
    keys: tuple[str, ...]
    store: ReferenceStore
    scales: Mapping[str, Scale]
    cached: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """What was measured: figures of each batch, in order, and how errors are spread, by output."""

    name: str
    cases: tuple[CaseResult, ...]
    layers: Layers
    errors: Mapping[str, Errors]


def plan_batches(
    shape: ModelShape, data_sets: Sequence[DataSet], layers: bool
) -> tuple[Batch, ...]:
    """The batches of data sets, layers on as many of the first as `LAYER_BYTES` allow."""
    token = 4 * shape.hidden_size * (shape.num_hidden_layers + 1)
    batches, used = [], 0
    for data_set in data_sets:
        for case in data_set.cases:
            used += token * int(case.mask.sum())
            batches.append(Batch(data_set.name, case, layers and used <= LAYER_BYTES))
    return tuple(batches)


def run_reference(
    side: Side,
    shape: ModelShape,
    batches: Sequence[Batch],
    store: ReferenceStore,
    progress: Progress,
) -> Reference:
    """What a side gives for every batch: from the store where it is there, else run.

    The model is loaded only if it has to run, and freed at the end.
    """
    identity = side.identity(shape.task)
    scales: dict[str, ScaleSum] = {}
    keys: list[str] = []
    runner: Runner | None = None
    layers = Layers(reason="not asked for")
    cached = 0
    try:
        for index, batch in enumerate(batches, 1):
            key = entry_key(identity, batch.case.feeds, batch.layers)
            entry = store.get(key)
            if entry is None:
                if runner is None:
                    progress("parity: loading the reference")
                    runner = side.opens[0](shape)
                    layers = runner.layers
                progress(f"parity: reference, batch {index} of {len(batches)}")
                entry = _observe(runner, shape, batch)
                store.put(key, entry)
            else:
                cached += 1
                if batch.layers and not layers.names:
                    layers = Layers(_names(entry), "the reference gives no hidden states")
            keys.append(key)
            for name, rows in _rows(shape, batch.case, entry):
                scales.setdefault(name, ScaleSum()).add(rows)
    finally:
        if runner is not None:
            runner.close()
    found = {name: scale.scale() for name, scale in scales.items()}
    ran, name = (tuple(batches), tuple(keys)), side.info.runtime
    return Reference(name, shape, layers, *ran, store=store, scales=found, cached=cached)


def compare(
    reference: Reference,
    candidate: Runner,
    progress: Progress,
    observe: Observer | None = None,
) -> Comparison:
    """Run the candidate on the batches of the reference, and measure.

    A batch that the candidate fails on is a case with a problem; the others count all the same.
    `observe` is given what both sides gave for each batch.

    Raises:
        InputError: the candidate refuses an input.
    """
    layers = _common_layers(reference.layers, candidate.layers)
    spreads = {name: ErrorSpread() for name in reference.shape.outputs}
    measurer = _Measurer(reference, decision_of(reference.shape), layers, spreads)
    cases = []
    for index, batch in enumerate(reference.batches):
        progress(f"parity: candidate, batch {index + 1} of {len(reference.batches)}")
        expected = reference.store.get(reference.keys[index])
        if expected is None:
            folder = reference.store.folder
            raise InputError(f"{folder}: an entry of the reference is gone; run again")
        try:
            actual = candidate.observe(batch.case.feeds, batch.layers and bool(layers.names))
        except RunError as error:
            seconds = {"reference": expected.seconds, "candidate": 0.0}
            cases.append(CaseResult(*_place(batch), {}, {}, {}, {}, seconds, error.message))
            continue
        if observe is not None:
            observe(batch, expected, actual)
        cases.append(measurer.case(batch, expected, actual))
    errors = {name: spread.errors() for name, spread in spreads.items()}
    return Comparison(candidate.name, tuple(cases), layers, errors)


def _place(batch: Batch) -> tuple[str, str, tuple[int, ...], float]:
    """What the result of a batch begins with."""
    return batch.case.name, batch.data_set, batch.case.shape, batch.case.padding


def _common_layers(reference: Layers, candidate: Layers) -> Layers:
    """The hidden states that both sides have, or why they cannot be compared."""
    for side, found in (("reference", reference), ("candidate", candidate)):
        if not found.names:
            return Layers(reason=f"{side}: {found.reason}")
    if reference.names != candidate.names:
        counts = (len(reference.names) - 1, len(candidate.names) - 1)
        return Layers(reason=f"the reference has {counts[0]} layers, the candidate {counts[1]}")
    return reference


def _observe(runner: Runner, shape: ModelShape, batch: Batch) -> Observation:
    """Run a batch; of the hidden states only valid tokens are kept, `(tokens, E)` each."""
    found = runner.observe(batch.case.feeds, batch.layers)
    mask = _token_mask(batch.case)
    layers = [rows_of(Task.BASE, layer, mask[:, : layer.shape[1]]).values for layer in found.layers]
    outputs = {name: found.outputs[name] for name in shape.outputs}
    return Observation(outputs, layers, found.seconds)


def _token_mask(case: ParityCase) -> Bools:
    """The mask of hidden states: `(B, S)`, or `(B * C, S)` for multiple choice."""
    return case.mask.reshape(-1, case.shape[-1])


def _places(mask: Bools, count: int) -> tuple[Ints, Ints]:
    """Row and position of so many tokens of a hidden state: those that count, or the first ones."""
    row, position = np.nonzero(mask)
    held = position >= 0 if count == len(row) else position == 0
    return row[held], position[held]


def _names(entry: Observation) -> tuple[str, ...]:
    return layer_names(len(entry.layers) - 1) if entry.layers else ()


def _rows(shape: ModelShape, case: ParityCase, entry: Observation) -> Iterator[tuple[str, Rows]]:
    """What counts of an entry, by the name of the output or layer; rows know their example."""
    for name, values in entry.outputs.items():
        if values.shape == shape.output_shape_of(case.feeds):
            yield name, rows_of(shape.task, values, shape.counted(case.feeds))
    mask = _token_mask(case)
    for name, values in zip(_names(entry), entry.layers, strict=True):
        row, position = _places(mask, len(values))
        yield name, Rows(values, None, row // (len(mask) // case.shape[0]), position)


@dataclass(frozen=True)
class _Measurer:
    """Measures one batch after the other."""

    reference: Reference
    decision: Decision
    layers: Layers
    spreads: Mapping[str, ErrorSpread]

    def case(self, batch: Batch, expected: Observation, actual: Observation) -> CaseResult:
        """The figures of one batch; nothing of its arrays is kept."""
        case, shape, problem = batch.case, self.reference.shape, None
        outputs: dict[str, Figures] = {}
        tallies: dict[str, Tally] = {}
        wanted = shape.output_shape_of(case.feeds)
        rows = dict(_rows(shape, case, expected))
        for name in shape.outputs:
            other = actual.outputs.get(name)
            if name not in rows:
                problem = f"output {name} of the reference is not of shape {wanted}"
            elif other is None or other.shape != wanted:
                found = "missing" if other is None else f"of shape {other.shape}"
                problem = f"output {name} is {found}; the reference has {wanted}"
            else:
                outputs[name], decided = self._output(name, rows[name], other, case)
                if decided is not None:
                    tallies[name] = decided
        layers, layer_problem = self._layers(batch, rows, actual)
        texts = {}
        for name, figures in {**outputs, **layers}.items():
            if figures.worst is not None and figures.worst.example < len(case.texts):
                texts[name] = case.texts[figures.worst.example]
        seconds = {"reference": expected.seconds, "candidate": actual.seconds}
        answers = None if problem else self._answers(case, expected, actual)
        problem = problem or layer_problem
        place = _place(batch)
        return CaseResult(*place, outputs, layers, tallies, texts, seconds, problem, answers)

    def _output(
        self, name: str, rows: Rows, other: Floats, case: ParityCase
    ) -> tuple[Figures, Tally | None]:
        scale = self.reference.scales[name]
        shape = self.reference.shape
        others = rows_of(shape.task, other, shape.counted(case.feeds))
        tallies: list[Tally] = []

        def observe(piece: Rows, decided: Decided) -> None:
            tallies.append(tally(piece, decided, case.name, case.texts, case.labels))

        figures = measure(rows, others, scale, self.decision, observe)
        figures = replace(figures, moments=moments_of(rows, others.values))
        self.spreads[name].add(rows, others.values, scale)
        return figures, merge(tallies)

    def _answers(
        self, case: ParityCase, expected: Observation, actual: Observation
    ) -> Answers | None:
        asked = case.mask if case.asked is None else case.asked
        shape = self.reference.shape
        if shape.gliner is not None:
            pair = (side.outputs["logits"] for side in (expected, actual))
            return found_spans(shape.gliner, case.feeds, *pair)
        return answers_of(shape, expected.outputs, actual.outputs, asked, case.firsts)

    def _layers(
        self, batch: Batch, rows: Mapping[str, Rows], actual: Observation
    ) -> tuple[dict[str, Figures], str | None]:
        if not (batch.layers and self.layers.names):
            return {}, None
        found: dict[str, Figures] = {}
        mask = _token_mask(batch.case)
        wanted = (*mask.shape, self.reference.shape.hidden_size)
        first = (len(mask), 1, wanted[2])
        one_row = last_layer_of(self.reference.shape.task) == "first"
        for name, values in zip(self.layers.names, actual.layers, strict=True):
            last = name == self.layers.names[-1]
            if values.shape != wanted and not (one_row and last and values.shape == first):
                return {}, f"{name} is of shape {values.shape}; expected {wanted}"
            ours, scale = rows[name], self.reference.scales[name]
            row, position = _places(mask, len(ours.values))
            if (both := position < values.shape[1]).all():
                other = Rows(values[row, position], None, ours.example, position)
            else:  # the first tokens alone are there
                places = (ours.example[both], position[both])
                ours = Rows(ours.values[both], None, *places)
                other = Rows(values[row[both], position[both]], None, *places)
            found[name] = measure(ours, other, scale, Decision.NONE)
        return found, None
