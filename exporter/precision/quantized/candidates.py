"""Quantized variants of one fp32 graph, which share the weights that they have in common.

A variant is a graph of some hundred kilobytes whose weights lie in two files: that of the fp32
graph, and one beside it to which every changed weight is written when it is first needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from calibration.formats import NumberFormat
from calibration.placement import Placement
from calibration.recipes import Recipes
from calibration.table_forms import TableForm
from exporter.graph.write import EMBEDDED_BELOW, append_aligned
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.passes import QuantizationReport, quantize_graph, solve_sites
from exporter.runtime.providers.onnx_session import OnnxSession
from exporter.runtime.session import Floats


@dataclass
class Candidates:
    """Makes and runs variants; a context manager that removes its files.

    The fp32 graph in `source` has its weights in a data file beside it. `placement` says what may
    be quantized, with recipes for all of that; a variant keeps more in float. `number` is the
    format of activations, and of weights that have none of their own; `form` is that of tables.
    """

    source: Path
    shape: ModelShape
    placement: Placement
    recipes: Recipes
    number: NumberFormat
    weights: NumberFormat | None = None
    form: TableForm = TableForm.INT8

    def __post_init__(self) -> None:
        number, weights = self.number, self.weights
        exported = ir.load(self.source)
        self._solved = solve_sites(exported, self.placement, self.recipes, number, weights)
        self._graph = self.source.with_name("candidate.onnx")
        self._file = self.source.with_name("candidate.onnx.data")
        self._stored: dict[tuple[str, bool], ir.ExternalTensor] = {}

    def __enter__(self) -> Candidates:
        self._file.touch()
        return self

    def __exit__(self, *error: object) -> None:
        self._stored.clear()
        self._file.unlink(missing_ok=True)
        self._graph.unlink(missing_ok=True)

    def make(self, placement: Placement) -> tuple[ir.Model, QuantizationReport]:
        """The graph with the placement's sites quantized; no weight of it is lazy any more.

        Raises:
            OSError: the disk is full.
        """
        model = ir.load(self.source)
        report = quantize_graph(
            model, placement, self.recipes, self._solved, self.number, self.form
        )
        corrected = {site.bias for site in placement.quantized}
        with self._file.open("ab") as stream:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if isinstance(tensor, ir.LazyTensor) and tensor.nbytes >= EMBEDDED_BELOW:
                    name = value.name or ""
                    value.const_value = self._store(name, name in corrected, tensor, stream)
        return model, report

    def run(
        self, placement: Placement, batches: Sequence[Mapping[str, Ids]]
    ) -> Iterator[dict[str, Floats]]:
        """Outputs by name of the variant with the placement's sites quantized, batch by batch."""
        model, _ = self.make(placement)
        self._graph.write_bytes(ir.to_proto(model).SerializeToString())
        with OnnxSession(self._graph, self.shape) as session:
            for feeds in batches:
                yield session.run(**feeds)

    def _store(
        self, name: str, corrected: bool, tensor: ir.TensorProtocol, stream: BinaryIO
    ) -> ir.ExternalTensor:
        """The tensor in the file; a name stands for the same numbers in every variant, but a bias
        for others where it is corrected."""
        key = name, corrected
        if key not in self._stored:
            offset, size = append_aligned(tensor, stream), tensor.nbytes
            shape, folder = ir.Shape(tensor.shape.numpy()), self._file.parent
            self._stored[key] = ir.ExternalTensor(
                self._file.name, offset, size, tensor.dtype, shape=shape, name=name, base_dir=folder
            )
        return self._stored[key]
