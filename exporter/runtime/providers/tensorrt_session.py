"""An engine of TensorRT or TensorRT-RTX as a session.

CI has no GPU. Its tests run this file against a stand-in for the engine that computes with ONNX
Runtime at the addresses it is given, and compare the names used here with TensorRT-RTX's classes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from exporter.artifact.engine_record import EngineRecord
from exporter.engine.cuda import CudaDevice, Replay, check_device_memory
from exporter.engine.plan_file import check_version, deserialize, read_header
from exporter.errors import InputError, MissingDependencyError, OtherMachineError, RunError
from exporter.inputs.encode import TextEncoder
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.batching import ON_GPU, Batching
from exporter.runtime.session import Floats, Session

if TYPE_CHECKING:
    import torch

Value = TypeVar("Value")

MOST_SHAPES = 16
"""Shapes whose context and CUDA graph are kept; the one unused for longest is dropped."""


@dataclass
class _Prepared:
    """A context set to one shape. The graph is captured at the second run of the shape."""

    context: Any
    outputs: Mapping[str, torch.Tensor]
    runs: int = 0
    replay: Replay | None = None


class TensorRtSession(Session):
    """An engine with buffers for its largest shapes, and a CUDA graph for each shape that recurs.

    Not safe to share between threads: runs use the same buffers.

    Args:
        path, record: the plan, and the engine as the manifest records it.
        shape, text: the model and its tokenizer.
        cuda_graphs: capture a shape's kernels when it comes for the second time.
        device: where to run; the first GPU by default.
        batching: how texts are put in batches; the engine's own bounds count as well.

    Raises:
        InputError: the plan is missing, broken, of another version or for another GPU, or has
            other inputs and outputs than `shape`.
        MissingDependencyError: the runtime, the driver or a GPU is missing, or its memory is too
            small.
    """

    def __init__(
        self,
        path: Path,
        record: EngineRecord,
        shape: ModelShape,
        text: TextEncoder | None = None,
        *,
        cuda_graphs: bool = True,
        device: CudaDevice | None = None,
        batching: Batching = ON_GPU,
    ) -> None:
        header = read_header(path)
        backend = header.backend
        super().__init__(backend.target, shape, text)
        trt = backend.load()
        if not record.options.version_compatible:
            check_version(path, header, trt.__version__)
        self._path = path
        self._device = device or CudaDevice()
        gpu, capabilities = self._device.gpu, record.options.compute_capabilities
        if capabilities and gpu.capability not in capabilities:
            raise OtherMachineError(
                f"{path}: built for compute capability {', '.join(map(str, capabilities))}, but "
                f"{gpu.name} has {gpu.capability}; "
                f"build it again with --compute-capability {gpu.capability}"
            )
        check_device_memory(f"{path}: the engine", header.bytes, self._device.free_bytes())
        self._trt, self._cuda_graphs = trt, cuda_graphs
        self._runtime, self._engine = deserialize(backend, trt, path)
        modes: dict[Any, list[str]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            modes[self._engine.get_tensor_mode(name)].append(name)
        self._check_names(path, *modes.values())
        # Smallest and largest shape of each profile. All inputs have the same shape.
        self._profiles: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for index in range(self._engine.num_optimization_profiles):
            low, _, high = self._engine.get_tensor_profile_shape(self.input_names[0], index)
            self._profiles.append((tuple(low), tuple(high)))
        self._prepared: OrderedDict[tuple[int, ...], _Prepared] = OrderedDict()
        self._contexts: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._allocate()
        batches = [high[0] for _, high in self._profiles]
        self.batching = replace(batching, largest=min(batching.largest, *batches))

    def _allocate(self) -> None:
        """Make buffers for the largest shapes, and the memory that all contexts share."""
        import torch

        device = self._device
        largest = tuple(max(sizes) for sizes in zip(*(p[1] for p in self._profiles), strict=True))
        output_elements = prod(self.shape.output_shape(largest))
        scratch = int(self._engine.device_memory_size_v2)
        needed = scratch + 8 * len(self.input_names) * prod(largest)
        needed += 4 * len(self.output_names) * output_elements
        check_device_memory(f"{self._path}: a run of shape {largest}", needed, device.free_bytes())
        self._inputs = {name: device.empty(prod(largest), torch.int64) for name in self.input_names}
        self._outputs = {
            name: device.empty(output_elements, self._dtype(name)) for name in self.output_names
        }
        self._scratch = device.empty(max(scratch, 1), torch.uint8)

    def _dtype(self, name: str) -> torch.dtype:
        import torch

        types = self._trt.DataType
        known = {types.FLOAT: torch.float32, types.HALF: torch.float16, types.BF16: torch.bfloat16}
        return known[self._engine.get_tensor_dtype(name)]

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        import torch

        self._check_open()
        given = feeds["input_ids"].shape
        shape = self._filled(given)
        prepared = _recent(self._prepared, shape, self._prepare)
        with self._device.queue():
            for name in self.input_names:
                padding = self.shape.pad_token_id if name == "input_ids" else 0
                ids = fill(feeds[name], shape, padding).ravel()
                self._inputs[name][: ids.size].copy_(torch.from_numpy(ids))
        # As it is for the first time, then as a graph.
        prepared.runs += 1
        if prepared.replay is None and self._cuda_graphs and prepared.runs > 1:
            prepared.replay = self._device.capture(lambda: self._enqueue(prepared.context))
        if prepared.replay is not None:
            prepared.replay()
        with self._device.queue():
            if prepared.replay is None:
                self._enqueue(prepared.context)
            buffers = prepared.outputs.items()
            values = {name: tensor.to("cpu", torch.float32) for name, tensor in buffers}
        self._device.synchronize()
        asked = tuple(slice(size) for size in self.shape.output_shape(given))
        # A tensor that was in memory already is a view of the buffer, which the next run reuses.
        return {name: np.array(value.numpy()[asked]) for name, value in values.items()}

    def run_buffers(self, **inputs: Any) -> dict[str, torch.Tensor]:
        """Run on buffers that are on the GPU already; nothing is copied.

        Args:
            inputs: one for each of `input_names`, anything that has `__dlpack__`, such as a tensor
                of PyTorch or CuPy: contiguous int64 `(B, S)`, or `(B, C, S)` for multiple choice,
                on the session's GPU. Their values are not checked: an id beyond the vocabulary
                gives undefined results.

        Returns:
            Outputs by name: new tensors on the GPU, which have `__dlpack__` themselves.

        Raises:
            InputError: an input is missing or unknown, has another type, device or layout, or its
                shape is outside the profiles.
        """
        import torch
        from torch.utils.dlpack import from_dlpack

        self._check_open()
        if set(inputs) != set(self.input_names):
            raise InputError(f"inputs are {sorted(inputs)}; give {list(self.input_names)}")
        tensors = {name: from_dlpack(value) for name, value in inputs.items()}
        where = self._scratch.device
        shape = tuple(tensors["input_ids"].shape)
        for name, tensor in tensors.items():
            if tensor.device != where or tensor.dtype != torch.int64 or not tensor.is_contiguous():
                raise InputError(
                    f"{name}: {tensor.dtype} on {tensor.device}; give contiguous int64 on {where}"
                )
            if tuple(tensor.shape) != shape:
                raise InputError(f"{name}: shape {tuple(tensor.shape)}; input_ids has {shape}")
        if len(shape) != self.shape.rank:
            raise InputError(
                f"input_ids: shape {shape}; {self.shape.task} takes {self.shape.rank}D"
            )
        # Not the contexts of `run`, whose addresses are those of the session's own buffers.
        context = _recent(self._contexts, shape, self._new_context)
        outputs = {}
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.data_ptr())
        for name in self.output_names:
            size = self.shape.output_shape(shape)
            outputs[name] = self._device.empty(prod(size), self._dtype(name)).view(size)
            context.set_tensor_address(name, outputs[name].data_ptr())
        with self._device.queue():
            self._enqueue(context)
        # The caller may free or reuse its buffers as soon as this returns.
        self._device.synchronize()
        return outputs

    def close(self) -> None:
        """Free the engine and its buffers."""
        for kept in (self._prepared, self._contexts, self._inputs, self._outputs):
            kept.clear()
        self._engine = self._runtime = None

    def _check_open(self) -> None:
        if self._engine is None:
            raise InputError("the session is closed")

    def _prepare(self, shape: tuple[int, ...]) -> _Prepared:
        """A context for a shape, on the session's own buffers."""
        context = self._new_context(shape)
        size = self.shape.output_shape(shape)
        outputs = {name: buffer[: prod(size)].view(size) for name, buffer in self._outputs.items()}
        for name, tensor in (*self._inputs.items(), *outputs.items()):
            context.set_tensor_address(name, tensor.data_ptr())
        return _Prepared(context, outputs)

    def _new_context(self, shape: tuple[int, ...]) -> Any:
        """A context set to a shape: its own, since a captured graph relies on its state."""
        takes = [
            all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
            for low, high in self._profiles
        ]
        if not any(takes):
            taken = " or ".join(f"{low} to {high}" for low, high in self._profiles)
            raise InputError(
                f"input_ids: shape {shape}; the engine takes {taken}: "
                "build it again with another --batch or --seq"
            )
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise MissingDependencyError(
                f"{self._path}: no context for shape {shape}; the GPU's memory is too small"
            )
        # One run at a time, so that all contexts can work in the same memory.
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.numel())
        done = context.set_optimization_profile_async(takes.index(True), self._device.stream)
        done = done and all(context.set_input_shape(name, shape) for name in self.input_names)
        if not done:
            raise RunError(self._path, f"the engine refuses inputs of shape {shape}")
        return context

    def _filled(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape to run inputs of `shape` in: their own, or up to a profile's smallest."""
        fitting = [
            tuple(map(max, low, shape))
            for low, high in self._profiles
            if all(size <= most for size, most in zip(shape, high, strict=True))
        ]
        return min(fitting, key=prod, default=shape)

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise RunError(self._path, "the engine could not be queued")


def _recent(
    kept: OrderedDict[tuple[int, ...], Value],
    shape: tuple[int, ...],
    make: Callable[[tuple[int, ...]], Value],
) -> Value:
    """What is kept for a shape, made when the shape is new; the oldest of too many is dropped."""
    if shape not in kept:
        kept[shape] = make(shape)
    kept.move_to_end(shape)
    while len(kept) > MOST_SHAPES:
        kept.popitem(last=False)
    return kept[shape]


def fill(ids: Ids, shape: tuple[int, ...], padding: int) -> Ids:
    """`ids` in a larger shape: tokens of `padding` at the end, and copies of the last row.

    They are `(B, S)` or `(B, C, S)`; `shape` has as many sizes, none smaller.
    """
    *rows, length = ((0, more - size) for size, more in zip(ids.shape, shape, strict=True))
    longer = np.pad(ids, [*((0, 0) for _ in rows), length], constant_values=padding)
    return np.pad(longer, [*rows, (0, 0)], mode="edge")
