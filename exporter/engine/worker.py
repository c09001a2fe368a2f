"""The process that builds one engine: a request on stdin, a JSON object a line on stdout.

A process of its own because Polygraphy drives one of TensorRT and TensorRT-RTX for as long as a
process lives; docs/tensorrt.md has more reasons. `exporter.engine.build_engine` starts it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, TextIO, TypeAlias

import msgspec

from calibration.json_values import from_json_values, to_json_values
from exporter.artifact.engine_record import EngineOptions
from exporter.engine.backend import BACKENDS, Backend
from exporter.engine.layers import Kernel, from_inspector, from_log
from exporter.environment import system_value
from exporter.model.profile import ShapeProfile

_REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class Request:
    """What to build; `body` is the form of the attention that the graph `onnx` has."""

    target: str
    onnx: Path
    plan: Path
    inputs: tuple[str, ...]
    profiles: tuple[ShapeProfile, ...]
    options: EngineOptions
    body: str


class Working(msgspec.Struct, tag_field="event", tag="working"):
    """What the builder is doing."""

    message: str


class Failed(msgspec.Struct, tag_field="event", tag="failed"):
    """The exception that the build ended with, and what the builder had logged as errors."""

    message: str
    errors: list[str]


class Done(msgspec.Struct, tag_field="event", tag="done"):
    """The engine is written: the builder's version, and what is known of the engine."""

    version: str
    seconds: float
    host_peak_bytes: int
    memory: list[str]
    kernels: tuple[Kernel, ...]


Event: TypeAlias = Working | Failed | Done


class Channel:
    """Writes events; once the reader has gone, `broken` is true and nothing more is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken = False

    def send(self, event: Event) -> None:
        """Write one event."""
        try:
            if not self.broken:
                print(json.dumps(to_json_values(event)), file=self._stream, flush=True)
        except OSError:
            self.broken = True


class Log(logging.Handler):
    """Keeps what the builder says: errors as they are, and every message about memory or layers."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[str] = []
        self.layers: list[str] = []
        self.memory: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Sort one message."""
        message = record.getMessage()
        if record.levelno >= logging.ERROR:
            self.errors.append(message)
        elif "Layers:\n" in message:
            self.layers.append(message)
        elif " Memory: " in message:
            self.memory.append(message)


def main() -> int:
    """Build what stdin asks for; 0 when the engine is written."""
    # A terminal sends Ctrl-C to both processes: the other one decides, and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = from_json_values(json.loads(sys.stdin.readline()), Request)
    # The builder's libraries print to stdout as well, which would mix with the events.
    channel = Channel(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    backend = BACKENDS[request.target]
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if backend.builds_without_gpu else "0"
    os.environ["POLYGRAPHY_AUTOINSTALL_DEPS"] = "0"
    log = Log()
    try:
        channel.send(_build(backend, request, channel, log))
    except Exception as error:
        channel.send(Failed(str(error), log.errors))
        return 1
    return 0


def _build(backend: Backend, request: Request, channel: Channel, log: Log) -> Done:
    """Parse, build, write and describe."""
    from polygraphy.backend import trt as loaders
    from polygraphy.logger import G_LOGGER

    G_LOGGER.use_python_logging_system = True
    G_LOGGER.module_severity = G_LOGGER.EXTRA_VERBOSE
    logger = logging.getLogger("Polygraphy")
    logger.setLevel(1)
    logger.propagate = False
    logger.addHandler(log)

    trt = backend.load()
    options = request.options
    start = perf_counter()
    channel.send(Working("reading the graph"))
    # TensorRT 11 and TensorRT-RTX are strongly typed always and may not know the flag.
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    if request.body == "plugin":
        _register_plugin(options)
    loader = loaders.NetworkFromOnnxPath(str(request.onnx), strongly_typed=typed)
    if request.body == "standard":
        # Where no fused kernel fits, as in fp32, TensorRT would refuse the graph instead.
        loader = loaders.SetDecomposableAttentions(loader)
    network = loader()
    _check_inputs(network[1], request.inputs)
    if request.body == "plugin":
        _check_plugins(trt, network[1], request.onnx)
    config = _config(backend, trt, request, channel)
    if not options.tf32:
        config = loaders.PostprocessConfig(config, _exact_products)
    cache = None if options.timing_cache is None else str(options.timing_cache)
    plan = loaders.EngineBytesFromNetwork(network, config, save_timing_cache=cache)()
    if channel.broken:
        raise RuntimeError("the process that asked for the engine has gone")
    channel.send(Working("writing the engine"))
    request.plan.write_bytes(plan)
    return Done(
        version=trt.__version__,
        seconds=perf_counter() - start,
        host_peak_bytes=_peak_bytes(),
        memory=log.memory,
        kernels=_kernels(backend, trt, plan, log),
    )


def _peak_bytes() -> int:
    """Memory that this process has taken at most; 0 where the system does not tell."""
    # Not from getrusage: on Linux, that begins with the peak of the process that started this one.
    peak = system_value(Path("/proc/self/status"), "VmHWM")
    return int(peak.split()[0]) * 1024 if peak else 0


def _check_inputs(network: Any, wanted: Sequence[str]) -> None:
    """Refuse a graph with other inputs: its shapes would not be the profile's."""
    found = [network.get_input(index).name for index in range(network.num_inputs)]
    if sorted(found) != sorted(wanted):
        names = ", ".join(found) or "none"
        raise ValueError(f"its inputs are {names}; expected are {', '.join(wanted)}")


def _register_plugin(options: EngineOptions) -> None:
    """Make the attention plugin known, compiled for the engine's GPU, which CI does not have."""
    from exporter.engine.cuda import find_gpu
    from plugins.disentangled_attention.tensorrt_plugin import register_plugin

    # For every GPU from Ampere on: PTX for the first of them runs on the others.
    register_plugin(80 if options.hardware_compatible else find_gpu().capability)


def _check_plugins(trt: Any, network: Any, onnx: Path) -> None:
    """Refuse a network in which not every attention has become the plugin."""
    from exporter.artifact.graph_description import describe_graph

    expected = describe_graph(onnx).attention_nodes
    layers = (network.get_layer(index) for index in range(network.num_layers))
    found = sum(layer.type == trt.LayerType.PLUGIN_V3 for layer in layers)
    if found != expected:
        raise ValueError(f"{found} of {expected} attention nodes have become the plugin")


def _config(backend: Backend, trt: Any, request: Request, channel: Channel) -> Any:
    """Polygraphy's loader of the builder's configuration."""
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import CreateConfig, Profile

    options, profiles = request.options, [Profile() for _ in request.profiles]
    for profile, given in zip(profiles, request.profiles, strict=True):
        for name in request.inputs:
            profile.add(name, *given.shapes)
    common: dict[str, Any] = {
        "profiles": profiles,
        "progress_monitor": _monitor(trt, channel),
        "builder_optimization_level": options.optimization_level,
        "refittable": options.refittable,
        "strip_plan": options.strip_weights,
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
    }
    if options.workspace_mib is not None:
        limit = options.workspace_mib << 20
        common["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: limit}
    if backend.builds_without_gpu:
        pairs = [divmod(number, 10) for number in options.compute_capabilities] or None
        return CreateConfigRTX(compute_capabilities=pairs, **common)
    if options.hardware_compatible:
        common["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.timing_cache is not None:
        common["load_timing_cache"] = str(options.timing_cache)
    return CreateConfig(tf32=options.tf32, version_compatible=options.version_compatible, **common)


def _exact_products(builder: Any, network: Any, config: Any) -> None:
    """Take back TF32, which both builders have on unless told otherwise."""
    from polygraphy.mod.trt_importer import lazy_import_trt

    config.clear_flag(lazy_import_trt().BuilderFlag.TF32)


def _monitor(trt: Any, channel: Channel) -> Any:
    """A progress monitor that reports to `channel` and cancels the build when that is broken."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known when TensorRT is loaded
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.reported = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            self._report(phase_name.lower())

        def step_complete(self, phase_name: str, step: int) -> bool:
            total = max(self.steps.get(phase_name, 1), 1)
            self._report(f"{phase_name.lower()} {min(100, 100 * (step + 1) // total)} %")
            return not channel.broken

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

        def _report(self, message: str) -> None:
            if monotonic() - self.reported >= _REPORT_SECONDS:
                self.reported = monotonic()
                channel.send(Working(message))

    return Monitor()


def _kernels(backend: Backend, trt: Any, plan: Any, log: Log) -> tuple[Kernel, ...]:
    """The engine's kernels: from the log where it lists them, else from the engine, on a GPU."""
    kernels = from_log(log.layers)
    if kernels or backend.builds_without_gpu:
        return kernels
    # CI does not execute this: only the full TensorRT gets here, and it has built on a GPU.
    from polygraphy.backend.trt import EngineFromBytes

    inspector = EngineFromBytes(plan)().create_engine_inspector()
    return from_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


if __name__ == "__main__":
    sys.exit(main())
