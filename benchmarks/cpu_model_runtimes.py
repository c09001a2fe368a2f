"""What `cpu_model.py` runs beside our sessions: stock sessions, and products that set the ideal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import int8_forms
from exporter.deberta.configuration import DebertaConfig
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.providers.onnx_session import EXACT_INTEGERS
from exporter.runtime.session import Floats, Session
from plugins.disentangled_attention.slots import slot_table

GEMMS = ("fp32", "int8 exact", "int8 fast")
"""Products whose rates are measured: fp32, int8 with and without `EXACT_INTEGERS`."""

_ROWS, _COLUMNS = 768, 3072


class StockOnnxRuntime(Session):
    """ONNX Runtime with its default options, as one who knows nothing of this project has it."""

    def __init__(self, path: Path, shape: ModelShape, threads: int) -> None:
        import onnxruntime

        super().__init__("onnxruntime, default options", shape, None)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        values = self._session.run(list(self.output_names), dict(feeds))
        return dict(zip(self.output_names, values, strict=True))

    def close(self) -> None:
        self._session = None


class StockOpenVino(Session):
    """OpenVINO with its default options, but fp32 for what is not quantized."""

    def __init__(self, path: Path, shape: ModelShape, threads: int) -> None:
        import openvino

        super().__init__("openvino, default options", shape, None)
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self._compiled: Any = openvino.Core().compile_model(str(path), "CPU", settings)
        self._request: Any = self._compiled.create_infer_request()

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        self._request.infer(dict(feeds))
        return {name: np.array(self._request.get_tensor(name).data) for name in self.output_names}

    def close(self) -> None:
        self._request = self._compiled = None


class GemmSession(Session):
    """One linear layer `(B*S, 768) -> 3072` in ONNX Runtime, on as many rows as a batch has tokens.

    It gives no outputs: only its time counts.
    """

    def __init__(self, kind: str, shape: ModelShape, threads: int) -> None:
        import onnxruntime

        super().__init__(kind, shape, None)
        form = "fp32" if kind == "fp32" else "MatMul"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        for key, value in EXACT_INTEGERS.items() if kind == "int8 exact" else ():
            options.add_session_config_entry(key, value)
        made = int8_forms.model(form, _ROWS, _COLUMNS, np.int8(0))
        self._session: Any = onnxruntime.InferenceSession(
            made.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._rows: dict[tuple[int, ...], Floats] = {}

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        sizes = feeds["input_ids"].shape
        if sizes not in self._rows:
            generator = np.random.default_rng(0)
            self._rows[sizes] = generator.normal(0, 1, (*sizes, _ROWS)).astype(np.float32)
        self._session.run(None, {"x": self._rows[sizes]})
        return {}

    def close(self) -> None:
        self._session = None


def live_slots(config: DebertaConfig, length: int) -> int:
    """Position slots that a length reaches."""
    table = slot_table(
        config.position_span, config.position_buckets, config.relative_positions
    ).numpy()
    middle = len(table) // 2
    reach = min(length - 1, middle)
    return int(table[middle + reach] - table[middle - reach]) + 1


def products(config: DebertaConfig, batch: int, length: int) -> tuple[int, int]:
    """Multiplications of a model's linear layers, and of the products of its attention.

    Relative embeddings are not projected and dead slots not multiplied: nothing has to.
    """
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_size
    weights = hidden * 3 * width + width * hidden + 2 * hidden * config.intermediate_size
    columns = 2 * length + (config.c2p + config.p2c) * live_slots(config, length)
    tokens = batch * length
    layers = config.num_hidden_layers
    return layers * tokens * weights, layers * tokens * width * columns


def ideal_ms(
    config: DebertaConfig, batch: int, length: int, linear: str, gemm_s: Mapping[str, float]
) -> float:
    """Time of the products alone, at the rates of one large product in ONNX Runtime.

    Args:
        config: the model.
        batch, length: of the input.
        linear: which of `GEMMS` the linear layers take; the attention's products are fp32.
        gemm_s: seconds of each for `batch * length` rows.
    """
    one = batch * length * _ROWS * _COLUMNS
    dense, attention = products(config, batch, length)
    return 1e3 * (dense * gemm_s[linear] + attention * gemm_s["fp32"]) / one
