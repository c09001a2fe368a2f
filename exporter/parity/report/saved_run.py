"""The inputs and outputs of a check, written for Polygraphy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from exporter.inputs.polygraphy_json import Iteration, inputs_json, outputs_json
from exporter.metrics.figures import Floats
from exporter.model.feeds import Ids
from exporter.parity.comparison import Batch
from exporter.parity.report.files import write_whole
from exporter.parity.runners import Observation


class SavedRun:
    """Keeps what goes into both models and comes out of them, batch by batch.

    Padded positions are in it as the models gave them. All of it is held in memory.
    """

    def __init__(self) -> None:
        self._inputs: list[Mapping[str, Ids]] = []
        self._outputs: dict[str, list[Iteration]] = {"reference": [], "candidate": []}

    def __call__(self, batch: Batch, reference: Observation, candidate: Observation) -> None:
        """Keep one batch."""
        self._inputs.append(batch.case.feeds)
        for name, found in (("reference", reference), ("candidate", candidate)):
            outputs: Mapping[str, Floats] = found.outputs
            self._outputs[name].append(Iteration(outputs, found.seconds))

    def write(self, inputs: Path | None, reference: Path | None, candidate: Path | None) -> None:
        """Write the files asked for.

        Raises:
            InputError: one cannot be written.
        """
        if inputs is not None:
            write_whole(inputs, json.dumps(inputs_json(self._inputs)))
        for name, path in (("reference", reference), ("candidate", candidate)):
            if path is not None:
                write_whole(path, json.dumps(outputs_json({name: self._outputs[name]})))
