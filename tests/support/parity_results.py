"""Parity results for the tests of reports: a real comparison of small arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx

from exporter.artifact.files import FileRecord
from exporter.artifact.manifest import read_manifest
from exporter.artifact.onnx_file import PLAN_KEY
from exporter.deberta.configuration import DebertaConfig
from exporter.graph.hidden_states import layer_names
from exporter.inputs.cases import DataSet, ParityCase
from exporter.inputs.data_sets import DataOptions
from exporter.metrics.figures import Floats
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from exporter.parity.check import CompareOptions, check_sides, compare_sides
from exporter.parity.limits import Limits, limits_for
from exporter.parity.result import ParityResult, SideInfo
from exporter.parity.runners import Layers, Observation
from exporter.parity.side import Side
from exporter.parity.sides import artifact_side, source_side
from exporter.parity.store import ReferenceStore

LAYERS = 3
WIDTH = 8
TEXTS = ("A fine & <b>bold</b> film", "Not | good_at *all*", "\x07 bell 👍", "No.")
LABELS = (1, 0, 1, 0)


def shape_of(task: Task = Task.SEQUENCE_CLASSIFICATION) -> ModelShape:
    config = DebertaConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_attention_heads=2,
        num_hidden_layers=LAYERS,
        id2label=MappingProxyType({0: "bad", 1: "good"}),
    )
    return config.shape(task)


class Arrays:
    """A runner that gives random arrays, the same for every instance, with errors where asked."""

    name = "arrays"

    def __init__(
        self,
        shape: ModelShape,
        noise: Sequence[float] = (0.0,) * (LAYERS + 1),
        output_noise: float = 0.0,
        layers: Layers | None = None,
        nan: bool = False,
    ) -> None:
        self._shape, self._noise, self._output_noise, self._nan = shape, noise, output_noise, nan
        self.layers = layers or Layers(layer_names(LAYERS))

    def observe(self, feeds: dict[str, Ids], layers: bool) -> Observation:
        size = feeds["input_ids"].shape
        generator = np.random.default_rng(int(feeds["input_ids"].sum()))
        errors = np.random.default_rng(int(feeds["input_ids"].sum()) + 1)

        def array(of: tuple[int, ...], noise: float) -> Floats:
            values = generator.normal(size=of).astype(np.float32)
            return (values + noise * errors.normal(size=of)).astype(np.float32)

        outputs = {
            name: array(self._shape.output_shape(size), self._output_noise)
            for name in self._shape.outputs
        }
        if self._nan:
            next(iter(outputs.values())).flat[0] = np.nan
        hidden = [array((*size, WIDTH), noise) for noise in self._noise] if layers else []
        return Observation(outputs, hidden, 0.004)

    def close(self) -> None:
        pass


def judged_again(folder: Path, data: DataOptions | None = None) -> ParityResult:
    """An artifact against the checkpoint that it was built from."""
    options = CompareOptions(data or DataOptions())
    return compare_sides(source_side(read_manifest(folder)), artifact_side(folder), options)


def compared(
    folder: Path,
    candidate: Arrays | None = None,
    *,
    shape: ModelShape | None = None,
    limits: Limits | None = None,
    labelled: bool = True,
    problems: Sequence[str] = (),
    repeat: int = 3,
) -> ParityResult:
    """The result of comparing `Arrays` with a changed one on two data sets."""
    shape = shape or shape_of()
    generator = np.random.default_rng(5)
    cases = []
    for index in range(repeat):
        ids = generator.integers(1, 50, (len(TEXTS), 6 + index))
        mask = np.ones_like(ids)
        mask[1, 3:] = 0
        feeds = {"input_ids": ids, "attention_mask": mask}
        labels = LABELS if labelled else None
        cases.append(ParityCase(f"texts {index}", feeds, TEXTS, labels))
    sets = (DataSet("first", (replace(cases[0], labels=None),)), DataSet("data.tsv", tuple(cases)))
    files = (FileRecord("model.onnx", 12, "ab" * 32),)
    reference = Side(
        SideInfo("models/right", "checkpoint", "fp32", "arrays", files),
        shape,
        None,
        None,
        (lambda shape: Arrays(shape),),
    )
    found = candidate or Arrays(shape)
    other = Side(
        SideInfo("models/<wrong>", "artifact", "fp32", "", files, ("a note",)),
        shape,
        None,
        None,
        (lambda shape: found,),
    )
    return check_sides(
        reference,
        other,
        shape,
        sets,
        limits or limits_for("fp32"),
        lambda message: None,
        store=ReferenceStore(folder),
        problems=problems,
        notes=("remember this",),
    )


def strip_plan(path: Path, output: Path) -> Path:
    """The graph as another exporter would give it, that writes no plan: at `output`."""
    model = onnx.load(path)
    kept = [item for item in model.metadata_props if item.key != PLAN_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, output)
    return output
