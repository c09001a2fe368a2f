"""An ONNX graph in ONNX Runtime as a session."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporter.artifact.onnx_file import open_onnx
from exporter.errors import InputError, MissingDependencyError, RunError
from exporter.inputs.encode import TextEncoder
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.batching import Batching
from exporter.runtime.providers.onnx_providers import CPU, Provider, check_active, check_available
from exporter.runtime.runtime_options import BODY, DEFAULTS, RuntimeOptions
from exporter.runtime.session import Floats, Session
from plugins.onnxruntime_cpu.native_library import NativeLibrary, native_library

EXACT_INTEGERS = {"session.x64quantprecision": "1"}
"""Session option for exact int8 products. x86 processors without VNNI otherwise add pairs of them
in 16 bits, which saturates without a word: docs/quantization.md. It does nothing elsewhere, and
products with weights of 7 bits are exact, and faster, without it."""

INEXACT = "without exact int8 products"
BASIC = "with basic optimizations"


class OnnxSession(Session):
    """A graph that `deb-export build` wrote, on ONNX Runtime's CPU provider.

    Args:
        path: the .onnx file; external data lies beside it.
        shape, text: the artifact's model and its tokenizer.
        options: threads, waiting, batches and the attention's kernel.
        settings: see `open_graph`: `provider`, `providers`, `content` and `weight_bits`.

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
        **settings: Any,
    ) -> None:
        options = options.resolved()
        batching = Batching.on_cpu(options) if provider == "cpu" else Batching.of(options)
        super().__init__(f"onnxruntime {provider}", shape, text, batching)
        self._path, self.survives_fork = path, provider == "cpu"
        self._session: Any
        self._session, how = open_graph(path, options, provider=provider, **settings)
        self.name += how
        nodes = (self._session.get_inputs(), self._session.get_outputs())
        self._check_names(path, *([item.name for item in group] for group in nodes))

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        if self._session is None:
            raise InputError("the session is closed")
        wanted = {name: feeds[name] for name in self.input_names}
        values = run_graph(self._path, self._session, self.output_names, wanted)
        return dict(
            zip(self.output_names, (np.asarray(v, np.float32) for v in values), strict=True)
        )

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
) -> tuple[Any, str]:
    """ONNX Runtime's own session over any graph: every session of ours is made here.

    With it comes how it was opened, for reports: by which kernel its attention is computed, if not
    by the body in the file, and what is not as was asked for. There is a warning then. Graphs of
    other tools may fail to open, or end the process, with exact int8 products; fp8 cannot be
    optimized in full before ONNX Runtime 1.32.

    Args:
        path: the .onnx file, or, with `content`, its name in messages and the place of its data.
        options: threads, waiting and the attention's kernel; for a CPU, resolved.
        content: a graph to run in the place of the file's; its external data lies there as well.
        provider: which execution provider runs it, one of `onnx_providers.NAMES`.
        providers: that provider with its options, and what it falls back to.
        weight_bits: that int8 weights use; 7 lets any kernel multiply them, 8 only an exact one.
        memory_pattern: keep a plan of memory for each shape; not where no shape recurs.

    Raises:
        InputError: the file is missing or broken, or has no attention for the native kernel that
            was asked for.
        MissingDependencyError: ONNX Runtime, its provider, or the native kernel that was asked for
            is missing.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError(
            'ONNX Runtime is not installed; pip install "deb-export[cpu]"'
        ) from None
    if content is None and not path.is_file():
        raise InputError(f"{path}: no such file; build the artifact again")
    version = onnxruntime.__version__
    check_available(provider, onnxruntime.get_available_providers())
    graph, place = (str(path), None) if content is None else (content, path.resolve().parent)
    library = _library(options) if provider == "cpu" else None
    made = library.kernels_made() if library else 0
    start = partial(onnxruntime.InferenceSession, graph, providers=list(providers))
    exact = weight_bits > 7 and not _aborts(version, path, content)
    how = INEXACT if weight_bits > 7 and not exact else ""
    make_settings = partial(_settings, options, library, memory_pattern, place)
    try:
        settings = make_settings(exact)
        try:
            session = start(settings)
        except Exception as error:
            kind = type(error).__name__
            if kind == "InvalidGraph":
                how, level = BASIC, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
                settings.graph_optimization_level = level
            elif kind == "Fail" and exact:
                how, settings = INEXACT, make_settings(False)
            else:
                raise
            session = start(settings)
    except Exception as error:
        what = f"ONNX Runtime {version} cannot load it"
        raise InputError(f"{path}: {what}: {_said_by(error)}") from error
    if how:
        warnings.warn(f"{path}: ONNX Runtime {version} opens it only {how}", stacklevel=2)
    check_active(provider, session)
    kernel = ""
    if library and library.kernels_made() > made:
        kernel = f"native attention ({library.instructions})"
    elif options.attention_kernel == "native":
        raise InputError(f"{path}: has no attention that the native kernel takes; leave it out")
    return session, "".join(f", {part}" for part in (kernel, how) if part)


def _library(options: RuntimeOptions) -> NativeLibrary | None:
    """What computes the attention, None for the body in the file."""
    if options.attention_kernel == "body":
        return None
    found = native_library()
    if isinstance(found, NativeLibrary):
        return found
    if options.attention_kernel == "native":
        raise MissingDependencyError(f"attention kernel native: {found}")
    return None


def _settings(
    options: RuntimeOptions,
    library: NativeLibrary | None,
    memory_pattern: bool,
    place: Path | None,
    exact: bool,
) -> Any:
    """Settings of a session; `place` is where external data of a graph in memory lies."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # errors are raised
    settings.enable_mem_pattern = memory_pattern
    entries = dict(EXACT_INTEGERS) if exact else {}
    if place is not None:
        entries["session.model_external_initializers_file_folder_path"] = str(place)
    if options.spinning is False:
        entries["session.intra_op.allow_spinning"] = "0"
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    if options.threads is not None:
        settings.intra_op_num_threads = options.threads
    if library is not None:
        settings.register_custom_ops_library(str(library.path))
    return settings


def _aborts(version: str, path: Path, content: bytes | None) -> bool:
    """Whether ONNX Runtime may end the process over int8 weights without zero points."""
    if not (1, 25) <= tuple(map(int, version.split(".")[:2])) <= (1, 29):
        return False
    nodes = open_onnx(path, content).graph.node
    return any(node.op_type == "DequantizeLinear" and len(node.input) < 3 for node in nodes)


def open_fp32(path: Path, content: bytes) -> Callable[..., list[Any]]:
    """Open a graph in memory that calibration measures: on the CPU, for batches of any shape.

    `path` is the model that it was made from. What is returned runs it, given the names of outputs
    and the inputs by name: see `run_graph`. Errors are those of `open_graph`.
    """
    # ONNX Runtime 1.32 cannot load a quantized graph that has all its values as outputs with the
    # option for exact products; what products may lose without it is within a range's margin.
    session, _ = open_graph(
        path, BODY.resolved(), content=content, weight_bits=7, memory_pattern=False
    )
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
        shapes = {name: array.shape for name, array in feeds.items()}
        what = f"ONNX Runtime fails on inputs of shape {shapes.get('input_ids', shapes)}"
        raise RunError(path, f"{what}: {_said_by(error)}") from error
    return values


def _said_by(error: Exception) -> str:
    """The first line of an error of ONNX Runtime, shortened; any other is raised again.

    ONNX Runtime's exceptions have no common public base.
    """
    if not isinstance(error, RuntimeError) and not type(error).__module__.startswith("onnxruntime"):
        raise error
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return first[:300]
