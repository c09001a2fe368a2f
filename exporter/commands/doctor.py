"""`deb-export doctor`: what this machine can build and run, and how to get what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec

import click

from exporter.commands.options.shared import debug_option
from exporter.environment import (
    environment,
    gpus,
    memory_gib,
    package_version,
    processor_name,
    usable_processors,
)
from exporter.threads import cpu_quota, default_threads
from plugins.onnxruntime_cpu.native_library import NativeLibrary, native_library

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

_INT8 = {
    True: "exact in any session of ONNX Runtime",
    False: "saturate in ONNX Runtime here, silently, unless the session sets "
    "session.x64quantprecision to 1 as those of deb-export do, or the build has --weight-bits 7",
    None: "unknown",
}


@click.command()
@debug_option
def doctor() -> int:
    """Say what is installed, what is missing, and how to get it.

    Exits with 3 when not even graphs can be built here; engines are optional.
    """
    needs = (*_NEEDS, *_optional_needs())
    software = [(*_look_at(module, names, how), use) for module, names, use, how in needs]
    missing = "; ".join(
        f"{name} {problem}" for name, _, problem, _ in software[: len(_NEEDS)] if problem
    )
    packages = (
        f"{name:<12} {version or '-':<11} {problem or 'ok'}  (for {use})"
        for name, version, problem, use in software
    )
    found = gpus()
    click.echo("\n".join((*_machine(found), *packages, *_targets(missing, found), *_providers())))
    return 3 if missing else 0


def _machine(found: tuple[str, ...]) -> Iterator[str]:
    """What the machine has; `found` are its GPUs with the versions of their driver."""
    from exporter.runtime.providers.integer_products import onnxruntime_is_exact

    facts, size = environment(), memory_gib()
    tool = facts.get("deb-export", "not installed")
    yield f"deb-export   {tool}, Python {facts['python']}, {facts['system']} {facts['machine']}"
    memory = "unknown" if size is None else f"{size:.1f} GiB"
    yield f"processor    {processor_name()}, {usable_processors()} usable, memory {memory}"
    threads, limit = default_threads(), cpu_quota()
    quota = "" if limit is None else f", the container's limit is {limit:g} processors"
    number = "the runtime's choice" if threads is None else threads
    yield f"threads      {number} by default{quota}"
    yield f"gpu          {'; '.join(found) or 'none found'}"
    yield f"int8         products {_INT8[onnxruntime_is_exact()]}"


def _optional_needs() -> tuple[tuple[str, tuple[str, ...], str, str], ...]:
    """As `_NEEDS`, of what engines and other runtimes need."""
    from exporter.engine.backend import TENSORRT, TENSORRT_RTX
    from exporter.runtime.providers.openvino_session import INSTALL

    return (
        ("polygraphy", ("polygraphy",), "engines", TENSORRT_RTX.install),
        ("tensorrt_rtx", TENSORRT_RTX.distributions, "target tensorrt-rtx", TENSORRT_RTX.install),
        ("tensorrt", TENSORRT.distributions, "target tensorrt", TENSORRT.install),
        ("openvino", ("openvino",), "provider openvino", INSTALL),
        ("pyarrow", ("pyarrow",), "score, of Parquet", 'pip install "deb-export[parquet]"'),
        ("ray", ("ray",), "score --ray", 'pip install "deb-export[ray]"'),
        ("triton", ("triton",), "the attention plugin", 'pip install "deb-export[triton]"'),
    )


def _look_at(
    module: str, distributions: tuple[str, ...], how: str
) -> tuple[str, str | None, str | None]:
    """A package's name, its version, None when it is missing, and why it cannot be used.

    It is imported, since an installed one may still not load.
    """
    found = [(name, number) for name in distributions if (number := package_version(name))]
    name, number = found[0] if found else (distributions[0], None)
    if number is None and find_spec(module) is not None and module == "tensorrt":
        # A folder of that name, such as one of type stubs, can be imported and does nothing.
        return name, None, f"is missing: {how}"
    problem = None
    try:
        import_module(module)
    except ImportError as error:
        broken = f"does not load ({str(error).splitlines()[0]}); install it again: {how}"
        problem = f"is missing: {how}" if number is None else broken
    except Exception as error:  # a broken binary can raise anything
        problem = f"does not load ({type(error).__name__}: {error}); install it again: {how}"
    return name, number, problem


def _state(kind: str, name: str, ready: bool, detail: str) -> str:
    return f"{kind} {name}: {'ready' if ready else 'not available'}, {detail}"


def _targets(missing: str, found: tuple[str, ...]) -> Iterator[str]:
    """What can be built: graphs, unless something is `missing`, engines, and their plugin."""
    from exporter.engine.backend import BACKENDS, TENSORRT

    yield _state("target", "onnx", not missing, missing or "can be built and run")
    where = "run" if found else "not run, there is no GPU"
    for backend in BACKENDS.values():
        problem = backend.problem()
        yield _state("target", backend.target, not problem, problem or f"can be built and {where}")
    problem = TENSORRT.problem() or TENSORRT.plugin_problem()
    name = f"attention for {TENSORRT.target}"
    yield _state("plugin", name, not problem, problem or "can be built into engines")
    native = native_library()
    ready = isinstance(native, NativeLibrary)
    detail = f"native, {native.instructions}" if isinstance(native, NativeLibrary) else native
    yield _state("plugin", "attention for onnxruntime on a CPU", ready, detail)


def _providers() -> Iterator[str]:
    """What sessions can ask for: ONNX Runtime's execution providers, and OpenVINO."""
    from exporter.runtime.load import OPENVINO
    from exporter.runtime.providers.onnx_providers import NAMES
    from exporter.runtime.providers.openvino_session import CAPABILITIES, DEVICE, INSTALL

    try:
        from onnxruntime import get_available_providers

        available = get_available_providers()
    except Exception:  # a broken binary can raise anything; the software's own line says so
        available = []
    for name, provider in NAMES.items():
        ready = provider in available
        detail = provider if ready else f"no {provider} in this ONNX Runtime: {_INSTALL_GPU}"
        yield _state("provider", name, ready, detail)
    able: Sequence[str] = ()
    try:
        from openvino import Core

        able = Core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
        names = [name for name, capability in CAPABILITIES.items() if capability in able]
        detail = f"computes in {', '.join(names)} on this processor"
    except ImportError:
        detail = f"OpenVINO is not installed: {INSTALL}"
    except Exception as error:  # a broken binary can raise anything
        detail = f"OpenVINO does not start ({error})"
    yield _state("provider", OPENVINO, bool(able), detail)
