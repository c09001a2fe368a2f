"""A finished graph and what judges its stages, ready to be given faulty copies of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from exporter.deberta.checkpoint import Checkpoint, open_checkpoint
from exporter.inputs.cases import ParityCase
from exporter.model.task import last_layer_of
from exporter.parity.sides import planned_graph
from exporter.parity.stagewise import (
    LEAST_TOKENS,
    StageFigures,
    judge_stages,
    run_stages,
    stage_names,
)
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.precision.emulate import emulated_model
from exporter.precision.precision_plan import PrecisionPlan
from tools.fault_matrix.faults import Fault, planted

LAYER = 1
"""The layer that faults are planted into, if no other is said."""


@dataclass(frozen=True, eq=False)
class Judged:
    """An honest build of a checkpoint.

    Attributes:
        checkpoint: what it was built from.
        path: the graph.
        graph: what is in it.
        plan: what it was built by.
        model: the checkpoint with the arithmetic of the plan.
        cases: batches that stages are compared on.
    """

    checkpoint: Checkpoint
    path: Path
    graph: onnx.ModelProto
    plan: PrecisionPlan
    model: nn.Module
    cases: tuple[ParityCase, ...]

    def stages(self, path: Path) -> tuple[StageFigures, ...]:
        """The figures of a graph in the place of the honest one.

        Raises:
            InputError: ONNX Runtime refuses it.
        """
        rounded = self.plan.half is not None
        values = run_stages(path, self.checkpoint.shape, self.cases, rounded=rounded)
        names = stage_names(self.checkpoint)
        return judge_stages(self.model, self.plan, names, values, lambda message: None)

    @property
    def last(self) -> int:
        """The last layer, of which a classifier's graph has the first token alone."""
        return self.checkpoint.config.num_hidden_layers - 1

    def write_faulty(self, fault: Fault, path: Path, layer: int = LAYER) -> None:
        """Write the graph with a fault in a layer to `path`."""
        heads = self.checkpoint.config.num_attention_heads
        onnx.save(planted(self.graph, fault, layer, heads), path)


def build_judged(folder: Path, output: Path, precision: str) -> Judged:
    """Build the checkpoint in `folder` into `output`."""
    checkpoint, path = open_checkpoint(folder), output / "model.onnx"
    last = last_layer_of(checkpoint.task)
    build(BuildConfig(folder, output, precision=precision, targets=("onnx",), last_layer=last))
    planned = planned_graph(path)
    if planned is None:
        raise RuntimeError(f"{path}: no plan in it")
    model = emulated_model(checkpoint, planned[1])
    return Judged(
        checkpoint, path, onnx.load(path), planned[1], model, _cases(checkpoint.config.vocab_size)
    )


def _cases(vocabulary: int) -> tuple[ParityCase, ...]:
    """A ragged batch with the tokens that faults in the embeddings are about, a long text, and so
    many short ones that shares of first tokens mean something."""
    generator = np.random.default_rng(3)
    ids = generator.integers(20, vocabulary, (4, 41))
    ids[0, :4] = (10, 11, 12, 13)
    mask = np.ones_like(ids)
    mask[1, 17:] = mask[2, 3:] = 0
    long = generator.integers(20, vocabulary, (1, 70))
    short = generator.integers(20, vocabulary, (LEAST_TOKENS, 5))
    return tuple(
        ParityCase("", {"input_ids": one, "attention_mask": other}, ())
        for one, other in ((ids, mask), (long, np.ones_like(long)), (short, np.ones_like(short)))
    )
