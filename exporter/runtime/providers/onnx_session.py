"""An ONNX graph in ONNX Runtime as a session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import InputError, MissingDependencyError, RunError
from exporter.inputs.encode import TextEncoder
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.batching import Batching
from exporter.runtime.options import DEFAULTS, RuntimeOptions
from exporter.runtime.providers.onnx_providers import CPU, Provider, check_active, check_available
from exporter.runtime.session import Floats, Session, check_names

EXACT_INTEGERS = {"session.x64quantprecision": "1"}
"""Session option for exact int8 products. x86 processors without VNNI otherwise add pairs of them
in 16 bits, which saturates without a word: docs/quantization.md. It does nothing elsewhere, and
products with weights of 7 bits are exact, and faster, without it."""


class OnnxSession(Session):
    """A graph that `deb-export build` wrote, on ONNX Runtime's CPU provider.

    Args:
        path: the .onnx file; external data lies beside it.
        shape: the model's configuration and task, from the artifact.
        text: the artifact's tokenizer.
        options: threads, waiting and batches.
        provider: which execution provider runs it, one of `onnx_providers.NAMES`.
        providers: that provider with its options, and what it falls back to.
        content: a graph to run in the place of the file's; its external data lies there as well.
        weight_bits: that int8 weights use; 7 lets any kernel multiply them, 8 only an exact one.

    Raises:
        InputError: the file is missing, broken, or has other inputs and outputs than `shape`.
        MissingDependencyError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: Path,
        shape: ModelShape,
        text: TextEncoder | None = None,
        options: RuntimeOptions = DEFAULTS,
        *,
        provider: str = "cpu",
        providers: Sequence[Provider] = (CPU,),
        content: bytes | None = None,
        weight_bits: int = 8,
    ) -> None:
        options = options.resolved()
        batching = Batching.on_cpu(options) if provider == "cpu" else Batching.of(options)
        super().__init__(f"onnxruntime {provider}", shape, text, batching)
        self._path = path
        self._session: Any = open_graph(
            path,
            options,
            content=content,
            provider=provider,
            providers=providers,
            weight_bits=weight_bits,
        )
        check_names(
            path,
            shape,
            [item.name for item in self._session.get_inputs()],
            [item.name for item in self._session.get_outputs()],
        )

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        if self._session is None:
            raise InputError("the session is closed")
        wanted = {name: feeds[name] for name in self.input_names}
        values = run_graph(self._path, self._session, self.output_names, wanted)
        return {
            name: np.asarray(value, np.float32)
            for name, value in zip(self.output_names, values, strict=True)
        }

    def close(self) -> None:
        """Free the graph and its weights."""
        self._session = None


def open_graph(
    path: Path,
    options: RuntimeOptions,
    *,
    content: bytes | None = None,
    provider: str = "cpu",
    providers: Sequence[Provider] = (CPU,),
    weight_bits: int = 8,
    memory_pattern: bool = True,
) -> Any:
    """ONNX Runtime's own session over any graph: every session of ours is made here.

    Args:
        path: the .onnx file, or, with `content`, its name in messages and the place of its data.
        options: threads and waiting; for a CPU, resolved.
        content: a graph to run in the place of the file's.
        provider: which execution provider runs it, one of `onnx_providers.NAMES`.
        providers: that provider with its options, and what it falls back to.
        weight_bits: that int8 weights use; with 7, products are left to the fastest kernel.
        memory_pattern: keep a plan of memory for each shape; not where no shape recurs.

    Raises:
        InputError: the file is missing or broken.
        MissingDependencyError: ONNX Runtime or its provider is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError(
            'ONNX Runtime is not installed; pip install "deb-export[cpu]"'
        ) from None
    if content is None and not path.is_file():
        raise InputError(f"{path}: no such file; build the artifact again")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; they are raised as well
    settings.enable_mem_pattern = memory_pattern
    for key, value in EXACT_INTEGERS.items() if weight_bits > 7 else ():
        settings.add_session_config_entry(key, value)
    if content is not None:
        settings.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(path.resolve().parent)
        )
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if options.spinning is False:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    check_available(provider, onnxruntime.get_available_providers())
    try:
        graph = str(path) if content is None else content
        session = onnxruntime.InferenceSession(graph, settings, providers=list(providers))
    except Exception as error:
        if not is_runtime_error(error):
            raise
        version = onnxruntime.__version__
        raise InputError(
            f"{path}: ONNX Runtime {version} cannot load it: {first_line(error)}"
        ) from error
    check_active(provider, session)
    return session


def open_fp32(path: Path, content: bytes) -> Callable[..., list[Any]]:
    """Open a graph in memory that calibration measures: on the CPU, for batches of any shape.

    Args:
        path: the model that it was made from, for messages and as the place of its data.
        content: the graph.

    Returns:
        what runs it, given the names of outputs and the inputs by name: see `run_graph`.

    Raises:
        InputError: ONNX Runtime cannot load it.
        MissingDependencyError: ONNX Runtime is missing.
    """
    session = open_graph(path, DEFAULTS.resolved(), content=content, memory_pattern=False)
    return partial(run_graph, path, session)


def run_graph(
    path: Path, session: Any, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[Any]:
    """The values of the named outputs of an open graph, in their order.

    Raises:
        RunError: ONNX Runtime fails on these inputs; `path` is named.
    """
    try:
        values: list[Any] = session.run(list(outputs), dict(feeds))
    except Exception as error:
        if not is_runtime_error(error):
            raise
        shapes = {name: array.shape for name, array in feeds.items()}
        given = shapes.get("input_ids", shapes)
        raise RunError(
            path, f"ONNX Runtime fails on inputs of shape {given}: {first_line(error)}"
        ) from error
    return values


def is_runtime_error(error: Exception) -> bool:
    """Whether ONNX Runtime itself raised it: its exceptions have no common public base."""
    module = type(error).__module__
    return isinstance(error, RuntimeError) or module.startswith("onnxruntime")


def first_line(error: Exception) -> str:
    """What an exception says, shortened."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
