"""What a parity check runs: a graph, a session, saved outputs; each gives outputs, and a graph and
the reference hidden states as well.

`B` batch, `C` choices, `S` sequence, `E` hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from exporter.artifact.onnx_file import open_onnx
from exporter.errors import InputError, RunError
from exporter.graph.hidden_states import find_hidden_states, layer_names, with_outputs
from exporter.inputs.polygraphy_json import Iteration, read_outputs
from exporter.metrics.figures import Floats
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.providers.onnx_session import open_graph, run_graph
from exporter.runtime.runtime_options import BODY, DEFAULTS, RuntimeOptions
from exporter.runtime.session import Session


@dataclass(frozen=True, eq=False)
class Observation:
    """What a model gave for one batch: outputs by name, as the model gives them, hidden states
    `(B, S, E)`, or `(B * C, S, E)`, empty where they were not asked for, and the time of the run.
    """

    outputs: Mapping[str, Floats]
    layers: Sequence[Floats]
    seconds: float


@dataclass(frozen=True)
class Layers:
    """The hidden states that a runner can give: their names, or why there are none."""

    names: tuple[str, ...] = ()
    reason: str = ""


class Runner(Protocol):
    """A loaded model on one side of a comparison."""

    @property
    def name(self) -> str:
        """The runtime, for reports."""

    @property
    def layers(self) -> Layers:
        """The hidden states it can give."""

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch; with `layers`, give the hidden states as well."""

    def close(self) -> None:
        """Free the model."""


class SessionRunner:
    """A session, its outputs only; `layers` says why it has no hidden states."""

    def __init__(self, session: Session, layers: Layers) -> None:
        self.name, self.layers = session.name, layers
        self._session = session

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch."""
        start = perf_counter()
        outputs = self._session.run(**feeds)
        return Observation(outputs, (), perf_counter() - start)

    def close(self) -> None:
        """Free the model."""
        self._session.close()


class EngineRunner(SessionRunner):
    """An engine, whose kernels may fail on the GPU; `path` is its plan."""

    def __init__(self, path: Path, session: Session, layers: Layers) -> None:
        super().__init__(session, layers)
        self._path = path

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch."""
        try:
            return super().observe(feeds, layers)
        except RuntimeError as error:  # PyTorch's, from the copies around the engine
            if "CUDA error" not in str(error):
                raise
            raise RunError(self._path, str(error).splitlines()[0]) from error


class TorchRunner(SessionRunner):
    """The reference model, its hidden states taken by hooks.

    Raises:
        InputError: a weight cannot be read or holds NaN.
    """

    def __init__(self, folder: Path, shape: ModelShape, base: Path | None = None) -> None:
        from exporter.deberta.checkpoint import open_checkpoint
        from exporter.runtime.providers.torch_session import TorchSession

        session = TorchSession(open_checkpoint(folder, shape.task, base=base))
        super().__init__(session, Layers(layer_names(shape.num_hidden_layers)))
        self.model: Any = session.model

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch; with `layers`, give the hidden states as well."""
        taken: dict[int, Any] = {}
        hooks = self._hooks(taken) if layers else []
        try:
            found = super().observe(feeds, layers)
        finally:
            for hook in hooks:
                hook.remove()
        return replace(found, layers=[taken[index].numpy() for index in sorted(taken)])

    def _hooks(self, taken: dict[int, Any]) -> list[Any]:
        """Hooks that put the hidden states into `taken` by their index."""
        from exporter.deberta.heads import encoder_of

        encoder = encoder_of(self.model)

        def keep(index: int) -> Any:
            return lambda module, inputs, output: taken.__setitem__(index, output)

        hooks = [encoder.register_forward_pre_hook(lambda _, inputs: taken.update({0: inputs[0]}))]
        for index, layer in enumerate(encoder.layer):
            hooks.append(layer.register_forward_hook(keep(index + 1)))
        if encoder.conv is not None:
            hooks.append(encoder.conv.register_forward_hook(keep(1)))
        return hooks

    def close(self) -> None:
        """Free the weights."""
        self.model = None
        super().close()


class SavedRunner:
    """Outputs that Polygraphy saved, in the order of their iterations.

    Raises:
        InputError: the file is missing, not of that format, or has several runners or none.
    """

    def __init__(self, path: Path, shape: ModelShape) -> None:
        runs = read_outputs(path)
        if len(runs) != 1:
            raise InputError(f"{path}: outputs of {sorted(runs)}; expected those of one runner")
        ((self.name, self._iterations),) = runs.items()
        self._path, self._shape, self._next = path, shape, 0
        self.layers = Layers(reason="the file has outputs only")

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """The outputs saved for the next batch."""
        if self._next >= len(self._iterations):
            raise InputError(
                f"{self._path}: outputs of {len(self._iterations)} iterations, but there are more "
                "batches; give the inputs that they were computed from with --data"
            )
        saved: Iteration = self._iterations[self._next]
        self._next += 1
        outputs = {}
        for name in self._shape.outputs:
            if name not in saved.outputs:
                raise InputError(f"{self._path}: no output {name}; it has {sorted(saved.outputs)}")
            outputs[name] = np.asarray(saved.outputs[name], np.float32)
        wanted = self._shape.output_shape_of(feeds)
        found = next(iter(outputs.values())).shape
        if found != wanted:
            raise InputError(
                f"{self._path}: iteration {self._next - 1} has outputs of shape {found}, and the "
                f"inputs ask for {wanted}: they are not from these inputs; give those with --data"
            )
        return Observation(outputs, (), saved.seconds or 0.0)

    def close(self) -> None:
        """Let go of the outputs."""
        self._iterations = []


_TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


@dataclass(frozen=True)
class _Signature:
    """How a graph wants its inputs and names its outputs.

    Attributes:
        inputs: type of each input by name.
        outputs: name in the graph of each output of the model, in the model's order.
        fixed: sizes of the inputs that are fixed, None where they are not.
    """

    inputs: Mapping[str, type[np.generic]]
    outputs: tuple[str, ...]
    fixed: tuple[int | None, ...]


class GraphRunner:
    """A graph on ONNX Runtime's CPU provider, ours or another exporter's.

    What others do differently is taken as it is: types of inputs, names of outputs, a fixed batch
    or length, which inputs are padded to.

    Args:
        path: the .onnx file; external data lies beside it.
        shape: the model that it should be.
        rounded: run it with half's rounding in every half value, see
            `exporter.runtime.providers.rounded_session`; the attention is the file's own then.
        options: the attention's kernel.

    Raises:
        InputError: the file is missing or broken, or is not a graph of such a model.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: Path,
        shape: ModelShape,
        *,
        rounded: bool = False,
        options: RuntimeOptions = DEFAULTS,
    ) -> None:
        self._path, self._shape = path, shape
        self.name = "onnxruntime cpu, rounded as half" if rounded else "onnxruntime cpu"
        content = _content(path, rounded)
        model = open_onnx(path, content)
        hidden = find_hidden_states(model)
        own = [item.name for item in model.graph.output]
        del model
        self.layers = Layers(hidden.names, hidden.reason)
        self._hidden = hidden.values
        content = with_outputs(content, hidden, own)
        self._session: Any
        options = BODY if rounded else options
        self._session, how = open_graph(path, options.resolved(), content=content)
        self.name += how
        added = [name for name in hidden.values if name not in own]
        self._signature = _signature(path, self._session, shape, added)

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        """Run one batch; with `layers`, give the hidden states as well."""
        batch, size = self._signature.fixed[0], feeds["input_ids"].shape[0]
        if batch is None:
            return self._run(feeds, layers)
        parts = []
        for start in range(0, size, batch):
            rows = np.minimum(np.arange(start, start + batch), size - 1)
            parts.append(self._run({name: array[rows] for name, array in feeds.items()}, layers))
        choices = feeds["input_ids"][0].size // feeds["input_ids"].shape[-1]
        return Observation(
            {
                name: np.concatenate([part.outputs[name] for part in parts])[:size]
                for name in self._shape.outputs
            },
            [
                np.concatenate([part.layers[index] for part in parts])[: size * choices]
                for index in range(len(parts[0].layers))
            ],
            sum(part.seconds for part in parts),
        )

    def _run(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        signature, length = self._signature, feeds["input_ids"].shape[-1]
        given = {
            name: _padded(name, feeds, signature.fixed[-1], self._shape).astype(dtype)
            for name, dtype in signature.inputs.items()
        }
        wanted = [*signature.outputs, *(self._hidden if layers else ())]
        start = perf_counter()
        values = run_graph(self._path, self._session, wanted, given)
        seconds = perf_counter() - start
        found = [np.asarray(value, np.float32) for value in values]
        count = len(signature.outputs)
        expected = self._shape.output_shape_of(feeds)
        outputs = {
            name: _cut(value, expected)
            for name, value in zip(self._shape.outputs, found[:count], strict=True)
        }
        return Observation(outputs, [value[:, :length] for value in found[count:]], seconds)

    def close(self) -> None:
        """Free the graph and its weights."""
        self._session = None


def _content(path: Path, rounded: bool) -> bytes:
    if rounded:
        from exporter.runtime.providers.rounded_session import widened_content

        return widened_content(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _signature(path: Path, session: Any, shape: ModelShape, added: Sequence[str]) -> _Signature:
    """What the graph takes and gives, if it is one of such a model."""
    inputs = {}
    fixed: tuple[int | None, ...] = (None,) * shape.rank
    given = session.get_inputs()
    names = [item.name for item in given]
    if "input_ids" not in names:
        raise InputError(f"{path}: inputs are {names}; {shape.task} has input_ids")
    if not set(names) <= {"attention_mask", "token_type_ids", *shape.inputs}:
        raise InputError(f"{path}: inputs are {names}; {shape.task} has {list(shape.inputs)}")
    for item in given:
        of_words = shape.gliner is not None and item.name.startswith("span")
        if item.type not in _TYPES or (len(item.shape) != shape.rank and not of_words):
            raise InputError(
                f"{path}: input {item.name} is {item.type} of shape {item.shape}; "
                f"{shape.task} takes whole numbers in {shape.rank} dimensions"
            )
        inputs[item.name] = _TYPES[item.type]
        if item.name == "input_ids":
            fixed = tuple(size if isinstance(size, int) else None for size in item.shape)
    found = {item.name: item for item in session.get_outputs() if item.name not in added}
    # Others' names are taken in the model's order.
    chosen = shape.outputs if set(shape.outputs) <= set(found) else tuple(found)
    if len(chosen) != len(shape.outputs):
        raise InputError(
            f"{path}: outputs are {list(found)}; {shape.task} has {list(shape.outputs)}"
        )
    for name in chosen:
        _check_sizes(path, name, found[name].shape, shape)
    return _Signature(inputs, chosen, fixed)


def _check_sizes(path: Path, name: str, found: Sequence[Any], shape: ModelShape) -> None:
    """Refuse an output whose fixed sizes are not those of the model."""
    expected = shape.output_shape((2,) * shape.rank)
    # The last dimension is the model's own, unless it is the length or the choices.
    own = len(expected) == 3 or expected[1:] == (shape.num_labels,)
    last = found[-1] if found else None
    wrong = own and isinstance(last, int) and last != expected[-1]
    if len(found) not in (0, len(expected)) or wrong:
        raise InputError(
            f"{path}: output {name} has shape {found}; the model's {shape.task} has "
            f"{len(expected)} dimensions, the last of size {expected[-1]}"
        )


def _padded(name: str, feeds: Mapping[str, Ids], length: int | None, shape: ModelShape) -> Ids:
    """An input, on the right padded to a fixed length; token types that nobody gave are 0."""
    array = feeds.get(name)
    if array is None:
        array = np.zeros_like(feeds["input_ids"])
    if length is None or array.shape[-1] == length or array.shape != feeds["input_ids"].shape:
        return array
    if array.shape[-1] > length:
        raise InputError(f"inputs of {array.shape[-1]} tokens; the graph is fixed to {length}")
    fill = shape.pad_token_id if name == "input_ids" else 0
    widths = [(0, 0)] * (array.ndim - 1) + [(0, length - array.shape[-1])]
    return np.pad(array, widths, constant_values=fill)


def _cut(value: Floats, expected: tuple[int, ...]) -> Floats:
    """An output without the padding to a fixed length; another number of dimensions stays."""
    if value.ndim != len(expected):
        return value
    return value[tuple(slice(0, size) for size in expected)]
