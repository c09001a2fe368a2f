"""Traces shared by tests: tracing takes most of the time of a small export."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

import onnx_ir as ir

from exporter.graph.export_form import ExportForm, PackedSelfAttention
from exporter.graph.trace import make_lazy
from exporter.model.model_shape import ModelShape

Trace: TypeAlias = Callable[[ExportForm, ModelShape], ir.Model]


class SharedTraces:
    """`exporter.graph.trace.trace`, run once for each architecture.

    A trace reads no weights, so that of one checkpoint is that of every other of its configuration;
    what comes after it, from folding to the written file, runs in each export.

    Args:
        trace: the real one.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._kept: dict[str, ir.Model] = {}

    def trace(self, form: ExportForm, shape: ModelShape) -> ir.Model:
        """As the real one, with the tensors of this form."""
        modules = form.model.modules()
        attention = [item for item in modules if isinstance(item, PackedSelfAttention)]
        queries = [item.queries for item in attention]
        shapes = {name: list(value.shape) for name, value in form.model.state_dict().items()}
        config = attention[0].config.to_dict()
        key = json.dumps([config, queries, repr(shape), shapes], sort_keys=True)
        if key not in self._kept:
            self._kept[key] = self._trace(form, shape)
        model = self._kept[key].clone()
        for name, value in model.graph.initializers.items():
            value.const_value = make_lazy(name, value, form.recipes[name])
        return model
