"""What a quantized graph changes on held-back text, beside the fp32 graph's own outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from calibration.sensitivity import Damage
from exporter.metrics.decisions import decision_of
from exporter.metrics.figures import Figures, Floats, Rows, add, measure, rows_of, scale_of
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.text_batches import TextBatches

Outputs = Mapping[str, Floats]


class Judge:
    """Compares outputs for the batches of a text with those of the reference.

    Args:
        shape: the model.
        batches: the text.
        reference: outputs of the fp32 graph by name, of each batch.
        labels: `(N,)`, class of each text; None judges by the reference's decisions.
    """

    def __init__(
        self,
        shape: ModelShape,
        batches: TextBatches,
        reference: Sequence[Outputs],
        labels: Ids | None = None,
    ) -> None:
        self._shape = shape
        self._decision = decision_of(shape)
        self._batches = batches
        self._labels = labels
        self._reference = reference
        self._scales = {
            name: scale_of(
                self._rows(name, outputs, feeds)
                for outputs, feeds in zip(reference, batches.feeds, strict=True)
            )
            for name in shape.outputs
        }

    def damage(self, outputs: Iterable[Outputs]) -> Damage:
        """Damage of a graph, from its outputs for each batch."""
        totals: dict[str, Figures] = {}
        lost = 0
        for batch, candidate in enumerate(outputs):
            reference, feeds = self._reference[batch], self._batches.feeds[batch]
            for name in self._shape.outputs:
                figures = measure(
                    self._rows(name, reference, feeds),
                    self._rows(name, candidate, feeds),
                    self._scales[name],
                    self._decision,
                    tie=0.0,
                )
                totals[name] = add(totals[name], figures) if name in totals else figures
            if self._labels is not None:
                wanted = self._labels[list(self._batches.rows[batch])]
                (name,) = self._shape.outputs
                lost += _correct(reference[name], wanted) - _correct(candidate[name], wanted)
        decisions = sum(figures.decisions for figures in totals.values())
        broken = any(figures.non_finite for figures in totals.values())
        error = max(figures.spread_relative for figures in totals.values())
        return Damage(
            decisions=decisions,
            changed=sum(figures.decisions - figures.agreed for figures in totals.values()),
            kl=sum(figures.sum_kl for figures in totals.values()) / max(1, decisions),
            error=float("inf") if broken else error,
            lost=None if self._labels is None else lost,
        )

    def _rows(self, name: str, outputs: Outputs, feeds: Mapping[str, Ids]) -> Rows:
        return rows_of(self._shape.task, outputs[name], feeds["attention_mask"] != 0)


def _correct(logits: Floats, labels: Ids) -> int:
    return int((np.argmax(logits, axis=1) == labels).sum())
