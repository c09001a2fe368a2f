"""Which linear layers stay in float: what quantizing costs on held-back text, within a budget."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, replace
from pathlib import Path

import numpy as np

from calibration.sensitivity import Budget, Damage, SensitivityReport, fit_budget, units_of
from exporter.metrics.decisions import decision_of
from exporter.metrics.figures import Figures, Floats, Rows, ScaleSum, add, measure, rows_of
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.calibration_text import (
    CalibrationText,
    TextBatches,
    label_indices,
)
from exporter.precision.quantized.candidates import Candidates
from exporter.progress import Progress
from exporter.runtime.providers.onnx_session import OnnxSession

FALLBACK = "costs more than the accuracy budget allows"

Outputs = Mapping[str, Floats]


def fit_to_budget(
    candidates: Candidates, text: CalibrationText, budget: Budget, progress: Progress
) -> SensitivityReport:
    """Choose the sites that stay in float, by variants judged on held-back text.

    The outputs of the fp32 graph are kept in a folder beside it on the way.

    Raises:
        InputError: labels that the model or the task does not have.
        OSError: the disk is full.
    """
    source, shape, placement = candidates.source, candidates.shape, candidates.placement
    labels = label_indices(shape, text.held_back_texts)
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        progress("running the fp32 graph on held-back text")
        with OnnxSession(source, shape) as session:
            outputs = (session.run(**feeds) for feeds in text.held_back.feeds)
            judge = Judge(shape, text.held_back, outputs, Path(folder), labels)

        def cost(floats: frozenset[str]) -> Damage:
            variant = placement.keep(tuple(floats), FALLBACK)
            return judge.damage(candidates.run(variant, text.held_back.feeds))

        return fit_budget(units_of(placement.quantized, placement.tables), cost, budget, progress)


@dataclass
class Judge:
    """Compares outputs for the batches of a text with those of the reference.

    The outputs of `reference`, by name for each batch, are kept in the empty `folder`: a masked
    LM's logits for a thousand texts are 15 GB. `labels` `(N,)` are the class of each text; None
    judges by the reference's decisions.
    """

    shape: ModelShape
    batches: TextBatches
    reference: InitVar[Iterable[Outputs]]
    folder: Path
    labels: Ids | None

    def __post_init__(self, reference: Iterable[Outputs]) -> None:
        self._decision = decision_of(self.shape)
        sums = {name: ScaleSum() for name in self.shape.outputs}
        for batch, outputs in enumerate(reference):
            for name, total in sums.items():
                rows = self._rows(name, outputs, batch)
                total.add(rows)
                np.save(self._file(name, batch), rows.values)
        self._scales = {name: total.scale() for name, total in sums.items()}

    def damage(self, outputs: Iterable[Outputs]) -> Damage:
        """Damage of a graph, from its outputs for each batch, by name."""
        totals: dict[str, Figures] = {}
        lost = 0
        for batch, given in enumerate(outputs):
            for name in self.shape.outputs:
                candidate = self._rows(name, given, batch)
                kept = np.load(self._file(name, batch), mmap_mode="r")
                reference = replace(candidate, values=kept)
                scale = self._scales[name]
                figures = measure(reference, candidate, scale, self._decision)
                totals[name] = add(totals[name], figures) if name in totals else figures
                if self.labels is not None:  # of whole texts, by the one output
                    numbers = np.array(self.batches.rows[batch])[candidate.example]
                    wanted = self.labels[numbers]
                    for sign, logits in ((1, kept), (-1, candidate.values)):
                        lost += sign * int((np.argmax(logits, axis=1) == wanted).sum())
        found = totals.values()
        decisions = sum(figures.decisions for figures in found)
        broken = any(figures.non_finite for figures in found)
        return Damage(
            decisions=decisions,
            changed=decisions - sum(figures.agreed for figures in found),
            kl=sum(figures.sum_kl for figures in found) / max(1, decisions),
            error=float("inf") if broken else max(figures.spread_relative for figures in found),
            lost=None if self.labels is None else lost,
        )

    def _rows(self, name: str, outputs: Outputs, batch: int) -> Rows:
        mask = self.shape.counted(self.batches.feeds[batch])
        return rows_of(self.shape.task, outputs[name], mask)

    def _file(self, name: str, batch: int) -> Path:
        return self.folder / f"{name}.{batch}.npy"
