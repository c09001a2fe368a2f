"""Builds an engine from an ONNX file, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import msgspec

from calibration.json_values import to_json_values
from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.engine.backend import Backend
from exporter.engine.build_errors import died, translate
from exporter.engine.layers import KernelSummary, layers_path
from exporter.engine.memory import available_bytes, check_memory, graph_bytes
from exporter.engine.worker import Done, Event, Failed, Request, Working
from exporter.errors import InputError
from exporter.model.profile import ShapeProfile
from exporter.progress import Progress, silent

_MEMORY = re.compile(r"([A-Z][\w ]* Memory): (\d+) bytes")
_GRACE_SECONDS = 5.0


def build_engine(
    backend: Backend,
    onnx: Path,
    plan: Path,
    inputs: Sequence[str],
    profiles: Sequence[ShapeProfile],
    options: EngineOptions | None = None,
    progress: Progress = silent,
) -> EngineRecord:
    """Build `plan` from the graph `onnx`, and the list of its kernels beside it.

    Ctrl-C, or any exception, ends the builder's process before it goes on. A plan that is not
    whole may then lie at `plan`: write into a folder that is thrown away. `inputs` are the names
    of the graph's inputs, which all have the same shape, within one of `profiles`.

    Raises:
        InputError: the graph or an option is not one that the builder takes.
        MissingDependencyError: software, a GPU or memory is missing.
    """
    options = options or EngineOptions()
    backend.check(options)
    if not onnx.is_file():
        raise InputError(f"{onnx}: no such file")
    check_memory(backend.title, graph_bytes(onnx), available_bytes())
    cache = options.timing_cache
    forms = backend.bodies(options, standard_pays=_standard_pays(onnx, options))
    request = Request(
        target=backend.target,
        onnx=onnx,
        plan=plan.absolute(),
        inputs=tuple(inputs),
        profiles=tuple(profiles),
        options=replace(options, timing_cache=cache and cache.absolute()),
        body=forms[0],
    )
    body, done = _build_first(backend, request, forms, progress)
    layers = layers_path(plan)
    layers.write_text(json.dumps(to_json_values(done.kernels), indent=1) + "\n", encoding="utf-8")
    summary = KernelSummary.of(done.kernels)
    sizes = {name: int(size) for text in done.memory for name, size in _MEMORY.findall(text)[:1]}
    return EngineRecord(
        target=backend.target,
        file=plan.name,
        layers=layers.name,
        version=done.version,
        profiles=request.profiles,
        options=options,
        bytes=plan.stat().st_size,
        activation_bytes=sizes.get("Total Activation Memory"),
        weight_bytes=sizes.get("Total Weights Memory"),
        # The builder has been asked for the plugin layers of its network.
        attention="plugin" if body == "plugin" else summary.attention,
        kernels=summary.kinds,
        dtypes=summary.dtypes,
        seconds=round(done.seconds, 3),
        host_peak_bytes=done.host_peak_bytes,
        body=body,
    )


def _standard_pays(onnx: Path, options: EngineOptions) -> bool:
    from exporter.graph.transforms.standard_attention import pays

    try:
        return options.attention == "auto" and pays(onnx)
    except InputError:  # no graph: the builder has its own words for it
        return False


def _build_first(
    backend: Backend, request: Request, bodies: Sequence[str], say: Progress
) -> tuple[str, Done]:
    """Build with the first form of the attention that can be built; it and the worker's result."""
    body, *others = bodies
    try:
        with _graph_of(request.onnx, body) as graph:
            return body, _run(backend, replace(request, onnx=graph.absolute(), body=body), say)
    except InputError as error:
        if not others:
            raise
        say(f"{backend.target}: not with the {body} ({error}); trying the next form")
    return _build_first(backend, request, others, say)


@contextmanager
def _graph_of(onnx: Path, body: str) -> Iterator[Path]:
    """The graph to build from: the one given, or one with another body of the attention."""
    if body != "standard":
        yield onnx
        return
    from exporter.graph.transforms.standard_attention import swap_body

    # Beside the graph, whose weights may lie in a file that it names.
    swapped = onnx.with_name(f".{onnx.stem}.{secrets.token_hex(4)}.onnx")
    try:
        swap_body(onnx, swapped)
        yield swapped
    finally:
        swapped.unlink(missing_ok=True)


def _run(backend: Backend, request: Request, say: Progress) -> Done:
    last: Event | None = None
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps(to_json_values(request)).encode() + b"\n")
        stdin.seek(0)
        with _start(stdin, stderr, request.plan.parent) as process:
            try:
                for line in process.stdout or ():
                    last = msgspec.json.decode(line, type=Event)
                    if isinstance(last, Working):
                        say(f"{backend.target}: {last.message}")
                process.wait()
            finally:
                _end(process)
        if isinstance(last, Done):
            return last
        if isinstance(last, Failed):
            raise translate(backend, str(request.onnx), last.errors, last.message)
        stderr.seek(0)
        said = stderr.read().decode("utf-8", "replace")
        raise died(backend, str(request.onnx), process.returncode, said)


def _start(stdin: IO[bytes], stderr: IO[bytes], folder: Path) -> subprocess.Popen[bytes]:
    # The worker must find this package, also where it is not installed.
    root = str(Path(__file__).resolve().parents[2])
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [root, *(str(Path(path).absolute()) for path in given)]
    return subprocess.Popen(
        [sys.executable, "-m", "exporter.engine.worker"],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        # Python would import from the current folder, which may be a checkpoint's: not that one.
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
