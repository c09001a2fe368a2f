"""An ONNX graph in OpenVINO, on the processor, as a session."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from exporter.errors import InputError, MissingDependencyError, RunError
from exporter.inputs.encode import TextEncoder
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.batching import Batching
from exporter.runtime.providers.integer_products import openvino_is_exact
from exporter.runtime.providers.openvino_weights import Weight, attach, detach
from exporter.runtime.runtime_options import DEFAULTS, RuntimeOptions, make_folder
from exporter.runtime.session import Floats, Session

INSTALL = 'pip install "deb-export[openvino]"'
DEVICE = "CPU"

_NATIVE = {None: "f32", "fp16": "f16", "bf16": "bf16"}
"""Arithmetic for the half type of an artifact, where the options name none."""

CAPABILITIES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}
"""OpenVINO's name for what a processor has instructions for."""

FLOAT_PRODUCTS = {"LP_TRANSFORMS_MODE": "NO"}
"""Settings with which OpenVINO rounds as Q/DQ says and multiplies in fp32, which is exact here: the
products are whole numbers, and sums of a thousand of them stay below 2^24 but for the extreme."""


class OpenVinoSession(Session):
    """A graph that `deb-export build` wrote, on OpenVINO's CPU device.

    The arithmetic is never left to OpenVINO, which computes fp32 graphs in bf16 where the processor
    has it: it is that of `options.precision`, or the artifact's own where the processor has
    instructions for it, else fp32 on the artifact's values. Q/DQ of int8 runs on integers
    where OpenVINO multiplies those right on this processor, else in floats on the same rounded
    values. fp8 is refused. `notes` says where the processor lacks what was asked for.

    Args:
        path: the .onnx file; external data lies beside it.
        shape, text: the artifact's model and its tokenizer.
        options: threads, batches, arithmetic, hint and cache.
        half, weight_bits: of the graph: "fp16", "bf16" or None; of int8 weights, 8 or 7.

    Raises:
        InputError: the file is missing, broken, has something that OpenVINO cannot run, or has
            other inputs and outputs than `shape`.
        MissingDependencyError: OpenVINO is not installed.
    """

    def __init__(
        self,
        path: Path,
        shape: ModelShape,
        text: TextEncoder | None = None,
        options: RuntimeOptions = DEFAULTS,
        *,
        half: str | None = None,
        weight_bits: int = 8,
    ) -> None:
        options = options.resolved()
        super().__init__("openvino", shape, text, Batching.on_cpu(options))
        self._path, self.survives_fork = path, True
        self._compiled, able, self._weights = _compile(path, half, options, weight_bits)
        nodes = (self._compiled.inputs, self._compiled.outputs)
        self._check_names(path, *([item.any_name for item in group] for group in nodes))
        taken = self._compiled.get_property("INFERENCE_PRECISION_HINT")
        self.precision: str = taken.get_type_name()
        self.name = f"openvino {self.precision}"
        self.notes = _notes(options.precision, self.precision, able)
        count = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [self._compiled.create_infer_request() for _ in range(count)]
        self._lock = threading.Lock()

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        (outputs,) = self._execute_all([feeds])
        return outputs

    def _execute_all(self, batches: Iterable[Mapping[str, Ids]]) -> Iterator[dict[str, Floats]]:
        """As many batches at the same time as there are requests; one for the hint "latency"."""
        with self._lock:
            if self._compiled is None:
                raise InputError("the session is closed")
            running: deque[tuple[Any, tuple[int, ...]]] = deque()
            try:
                for number, feeds in enumerate(batches):
                    if len(running) == len(self._requests):
                        yield self._outputs(*running.popleft())
                    request = self._requests[number % len(self._requests)]
                    request.start_async({name: feeds[name] for name in self.input_names})
                    running.append((request, feeds["input_ids"].shape))
                while running:
                    yield self._outputs(*running.popleft())
            finally:
                for request, _ in running:
                    request.cancel()
                    with suppress(RuntimeError):  # it has been cancelled
                        request.wait()

    def _outputs(self, request: Any, shape: tuple[int, ...]) -> dict[str, Floats]:
        try:
            request.wait()
        except RuntimeError as error:
            what = f"OpenVINO fails on inputs of shape {shape}"
            raise RunError(self._path, f"{what}: {_reason(error)}") from error
        tensors = {name: request.get_tensor(name).data for name in self.output_names}
        return {name: np.array(values, np.float32) for name, values in tensors.items()}

    def close(self) -> None:
        """Free the graph and its weights."""
        with self._lock:
            self._requests, self._compiled, self._weights = [], None, {}


def _compile(
    path: Path, half: str | None, options: RuntimeOptions, weight_bits: int
) -> tuple[Any, frozenset[str], dict[str, Weight]]:
    """The compiled model, what the processor has instructions for, and the weights it refers to."""
    try:
        import openvino
    except ImportError:
        raise MissingDependencyError(f"OpenVINO is not installed; {INSTALL}") from None
    from exporter.graph.transforms.inline_functions import inlined

    settings: dict[str, Any] = {"PERFORMANCE_HINT": (options.hint or "latency").upper()}
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads
    if options.cache is not None:
        make_folder(options.cache)
        settings["CACHE_DIR"] = str(options.cache)
    model = inlined(path)
    held = (item.t for node in model.graph.node for item in node.attribute if item.HasField("t"))
    stored = chain(model.graph.initializer, held)
    if any(TensorProto.DataType.Name(t.data_type).startswith("FLOAT8") for t in stored):
        # 2026.4 runs it without fp8 arithmetic, and wrong with several streams.
        raise InputError(f"{path}: OpenVINO cannot compute fp8 on a processor; use provider cpu")
    try:
        core = openvino.Core()
        able = frozenset(core.get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
        settings["INFERENCE_PRECISION_HINT"] = _arithmetic(options.precision, half, able)
        quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        if quantized and not openvino_is_exact(core, DEVICE, weight_bits):
            settings |= FLOAT_PRODUCTS
        weights = detach(model, path.resolve().parent)
        graph = core.read_model(model.SerializeToString())
        attach(graph, weights)
        return core.compile_model(graph, DEVICE, settings), able, weights
    except RuntimeError as error:
        raise InputError(
            f"{path}: OpenVINO {openvino.__version__} cannot load it: {_reason(error)}"
        ) from error


def _arithmetic(asked: str | None, half: str | None, able: frozenset[str]) -> str:
    """What to have OpenVINO compute in.

    Asked for f16 on a processor that has bf16 alone, it takes bf16, whose error is eight times that
    of the artifact; fp32 has none. bf16 that was asked for by name is emulated.
    """
    wanted = asked or _NATIVE[half]
    if CAPABILITIES[wanted] in able or asked == "bf16":
        return wanted
    return "f32"


def _notes(asked: str | None, actual: str, able: frozenset[str]) -> tuple[str, ...]:
    """What to tell a user who asked for an arithmetic that the processor does not have."""
    if asked is None or CAPABILITIES[asked] in able:
        return ()
    what = f"none, so OpenVINO computes in {actual}"
    if actual == asked:
        what = "no instructions for it, so OpenVINO emulates it, slower than f32"
    return (f"precision {asked}: this processor has {what}",)


def _reason(error: Exception) -> str:
    """What OpenVINO complains about, without the places in its own source that it begins with."""
    places = ("Exception from ", "Check '", "Summary:", "FrontEnd API")
    lines = filter(None, map(str.strip, str(error).splitlines()))
    told = " ".join(line for line in lines if not line.startswith(places))
    return told[:300] or type(error).__name__
