"""What this machine can build and run, and how to get what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from exporter.engine.backend import BACKENDS, TENSORRT, TENSORRT_RTX, Backend
from exporter.environment import (
    environment,
    gpus,
    memory_gib,
    package_version,
    processor_name,
    usable_processors,
)
from exporter.runtime.load import OPENVINO
from exporter.runtime.providers.integer_products import onnxruntime_is_exact
from exporter.runtime.providers.onnx_providers import NAMES as PROVIDERS
from exporter.runtime.providers.openvino_session import CAPABILITIES, DEVICE, INSTALL
from exporter.threads import cpu_quota, default_threads

_INSTALL_CPU = 'pip install "deb-export[cpu]"'
_INSTALL_GPU = 'pip install "deb-export[gpu]"'
_INSTALL = "pip install deb-export"

# Import name, distributions that provide it, what needs it, and how to get it.
_NEEDS = (
    ("torch", ("torch",), "build, parity", _INSTALL_CPU),
    ("onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "build, parity, run", _INSTALL_CPU),
    ("onnx", ("onnx",), "build, inspect", _INSTALL),
    ("onnx_ir", ("onnx-ir",), "build", _INSTALL),
    ("onnxscript", ("onnxscript",), "build", _INSTALL),
    ("numpy", ("numpy",), "everything", _INSTALL),
    ("safetensors", ("safetensors",), "build", _INSTALL),
    ("tokenizers", ("tokenizers",), "texts with tokenizer.json", _INSTALL),
    ("sentencepiece", ("sentencepiece",), "texts with spm.model", _INSTALL),
)
_OPTIONAL_NEEDS = (
    ("polygraphy", ("polygraphy",), "engines", TENSORRT_RTX.install),
    ("tensorrt_rtx", TENSORRT_RTX.distributions, "target tensorrt-rtx", TENSORRT_RTX.install),
    ("tensorrt", TENSORRT.distributions, "target tensorrt", TENSORRT.install),
    ("openvino", ("openvino",), "provider openvino", INSTALL),
    ("triton", ("triton",), "the attention plugin", 'pip install "deb-export[triton]"'),
)

_INT8 = {
    True: "exact in any session of ONNX Runtime",
    False: "saturate in ONNX Runtime here, silently, unless the session sets "
    "session.x64quantprecision to 1 as those of deb-export do, or the build has --weight-bits 7",
    None: "unknown",
}


@dataclass(frozen=True)
class Software:
    """A package: its version, None when it is missing; `problem` says why it cannot be used."""

    name: str
    version: str | None
    needed_for: str
    problem: str | None


@dataclass(frozen=True)
class TargetState:
    """Whether a target, a plugin or a provider can be used here; `detail` says what is missing."""

    name: str
    ready: bool
    detail: str


@dataclass(frozen=True)
class Diagnosis:
    """All that doctor finds; true when graphs can be built. Engines need more, which is optional.

    `gpus` are names with driver versions; `memory_gib` is the physical memory; `threads` is what a
    session takes by default, None where the runtime chooses; `quota` is the container's limit in
    processors; `int8` says whether int8 products of default sessions are exact.
    """

    tool: str
    python: str
    system: str
    processor: str
    processors: int
    threads: int | None
    quota: float | None
    memory_gib: float | None
    gpus: tuple[str, ...]
    int8: str
    software: tuple[Software, ...]
    targets: tuple[TargetState, ...]
    plugins: tuple[TargetState, ...]
    providers: tuple[TargetState, ...]

    def __bool__(self) -> bool:
        return all(state.ready for state in self.targets if state.name == "onnx")


def diagnose() -> Diagnosis:
    """Look at this machine. Imports every package, since an installed one may still not load."""
    software = tuple(_look_at(*need) for need in _NEEDS)
    missing = [item for item in software if item.problem]
    reason = "; ".join(f"{item.name} {item.problem}" for item in missing)
    found = gpus()
    targets = [TargetState("onnx", not missing, reason or "can be built and run")]
    targets += [_engine_target(backend, found) for backend in BACKENDS.values()]
    software += tuple(_look_at(*need) for need in _OPTIONAL_NEEDS)
    facts = environment()
    return Diagnosis(
        tool=facts.get("deb-export", "not installed"),
        python=facts["python"],
        system=f"{facts['system']} {facts['machine']}",
        processor=processor_name(),
        processors=usable_processors(),
        threads=default_threads(),
        quota=cpu_quota(),
        memory_gib=memory_gib(),
        gpus=found,
        int8=_INT8[onnxruntime_is_exact()],
        software=software,
        targets=tuple(targets),
        plugins=(_plugin(TENSORRT),),
        providers=_providers(),
    )


def _engine_target(backend: Backend, found: tuple[str, ...]) -> TargetState:
    problem = backend.problem()
    if problem is not None:
        return TargetState(backend.target, False, problem)
    where = "run" if found else "not run, there is no GPU"
    return TargetState(backend.target, True, f"can be built and {where}")


def _plugin(backend: Backend) -> TargetState:
    """Whether the attention plugin can be built into engines of a builder."""
    problem = backend.problem() or backend.plugin_problem()
    return TargetState(
        f"attention for {backend.target}", problem is None, problem or "can be built into engines"
    )


def _providers() -> tuple[TargetState, ...]:
    """ONNX Runtime's execution providers that sessions can ask for."""
    try:
        from onnxruntime import get_available_providers

        available = get_available_providers()
    except Exception:  # a broken binary can raise anything; the software's own line says so
        available = []
    states = []
    for name, provider in PROVIDERS.items():
        ready = provider in available
        detail = provider if ready else f"no {provider} in this ONNX Runtime: {_INSTALL_GPU}"
        states.append(TargetState(name, ready, detail))
    return (*states, _openvino())


def _openvino() -> TargetState:
    """OpenVINO, with the arithmetic that it has instructions for here."""
    try:
        from openvino import Core

        able = Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    except ImportError:
        return TargetState(OPENVINO, False, f"OpenVINO is not installed: {INSTALL}")
    except Exception as error:  # a broken binary can raise anything
        return TargetState(OPENVINO, False, f"OpenVINO does not start ({error})")
    names = [name for name, capability in CAPABILITIES.items() if capability in able]
    return TargetState(OPENVINO, True, f"computes in {', '.join(names)} on this processor")


def _look_at(module: str, distributions: tuple[str, ...], needed_for: str, how: str) -> Software:
    found = [(name, number) for name in distributions if (number := package_version(name))]
    name, number = found[0] if found else (distributions[0], None)
    if number is None and find_spec(module) is not None and module == "tensorrt":
        # A folder of that name, such as one of type stubs, can be imported and does nothing.
        return Software(name, None, needed_for, f"is missing: {how}")
    problem = None
    try:
        import_module(module)
    except ImportError as error:
        broken = f"does not load ({str(error).splitlines()[0]}); install it again: {how}"
        problem = f"is missing: {how}" if number is None else broken
    except Exception as error:  # a broken binary can raise anything
        problem = f"does not load ({type(error).__name__}: {error}); install it again: {how}"
    return Software(name, number, needed_for, problem)
