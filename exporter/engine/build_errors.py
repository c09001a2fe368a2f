"""The builder's errors as a user's: which node, which rule, what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from exporter.engine.backend import Backend
from exporter.errors import DebExportError, InputError, MissingDependencyError
from plugins.disentangled_attention.contract import OP_TYPE

_PARSER = re.compile(
    r"In node -?\d+ with name: (?P<node>.*?) and operator: (?P<operator>\S+) "
    r"\((?P<rule>\w+)\): (?P<code>[A-Z_]+): (?P<reason>.*)",
    re.DOTALL,
)
_REASON = re.compile(r"Error Code \d+: (?P<kind>[^(]+?) ?\((?P<text>.*) In \w+ at ", re.DOTALL)
_CONDITION = re.compile(r'^(Assertion failed: .*?: |[\w !&|().>=<-]*&& ")')
_NO_DRIVER = re.compile(
    r"CUDA driver version is insufficient|no CUDA-capable device|cudaError (35|100)\b"
)
_CAPABILITY = re.compile(r"Compute capability (?P<number>[\d.]+) \((?P<name>\w+)\) +not supported")
_UNSUPPORTED = re.compile(
    r"Cannot compile operation '(?P<node>.*?)' for (?P<gpu>[^:]*): (?P<rule>[^.]*)"
)
_DATATYPE = re.compile(
    r"Cannot compile for target\(s\) (?P<gpu>[\w, ]+), because .*datatypes: (?P<types>[\w, ]+)"
)
_WORKSPACE = re.compile(r"within workspace limit|insufficient (memory|workspace)", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|bad_alloc|OutOfMemory|Error Code 2\b|cudaError 2\b", re.IGNORECASE
)
_JIT = "CHECK(status == CUDA_SUCCESS)"
_LONGEST = 300


def translate(
    backend: Backend, graph: str, errors: Sequence[str], message: str = ""
) -> DebExportError:
    """The error to raise for a failed build.

    Args:
        backend: the builder.
        graph: the ONNX file, for the message.
        errors: what the builder logged as errors, in order.
        message: the exception it ended with.
    """
    text = "\n".join([*errors, message])
    for line in errors:
        found = _PARSER.search(line)
        if found is not None:
            return _parser_error(backend, graph, found)
    if found := _CAPABILITY.search(text):
        return InputError(
            f"--compute-capability {found['number'].replace('.', '')}: {backend.title} "
            "here does not build for it; see deb-export doctor"
        )
    if found := _UNSUPPORTED.search(text):
        return InputError(
            f"{backend.title}: node {found['node']!r} cannot be built for {found['gpu']}: "
            f"{found['rule'].strip()}; choose another --precision or --compute-capability"
        )
    if found := _DATATYPE.search(text):
        return InputError(
            f"{backend.title}: {found['gpu'].strip()} has no kernels for {found['types'].strip()}; "
            "choose another --precision or --compute-capability"
        )
    if _WORKSPACE.search(text):
        return InputError(
            f"{backend.title}: no kernel works within the --workspace given; give more, or none"
        )
    if _OUT_OF_MEMORY.search(text):
        return MissingDependencyError(
            f"{backend.title}: not enough memory to build; give a smaller --batch or --seq, "
            "or use a machine with more"
        )
    if _JIT in text or _NO_DRIVER.search(text):
        return MissingDependencyError(
            f"{backend.title}: this build needs a GPU and its driver, and finds none"
        )
    return InputError(f"{backend.title} cannot build {graph}: {_shortest(errors, message)}")


def died(backend: Backend, graph: str, code: int, stderr: str) -> DebExportError:
    """The error to raise when the builder's process ended without a word.

    Args:
        backend: the builder.
        graph: the ONNX file, for the message.
        code: exit code of the process, negative for a signal.
        stderr: the end of what it printed.
    """
    if code == -signal.SIGKILL:
        return MissingDependencyError(
            f"{backend.title}: the system stopped the build, most likely for want of memory; "
            "use a machine with more, or another --precision"
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = [line for line in stderr.strip().splitlines() if line.strip()][-1:]
    said = f" ({last[0].strip()[:_LONGEST]})" if last else ""
    return InputError(
        f"{graph}: {backend.title} ended with {how}{said}; is it a graph of deb-export build?"
    )


def _parser_error(backend: Backend, graph: str, found: re.Match[str]) -> DebExportError:
    """A node that the parser refuses."""
    node, operator, reason = found["node"], found["operator"], found["reason"]
    where = f"{graph}: {backend.title} refuses node {node!r} ({operator})"
    if "Plugin not found" in reason:
        what = "it has no such operator"
        if operator == OP_TYPE:
            return MissingDependencyError(
                f"{where}: {what}, and the graph has no function for it; build the graph again"
            )
        return InputError(f"{where}: {what}; use a graph of deb-export build")
    cause = _REASON.search(reason)
    rule = cause["text"] if cause is not None else _CONDITION.sub("", reason.splitlines()[0])
    rule = rule.removeprefix(f"{node}: ").partition(" Please set ")[0].strip().rstrip(".")
    return InputError(
        f"{where}: {found['code']} in {found['rule']}: {rule[:_LONGEST]}; "
        "use a graph of deb-export build, or report it"
    )


def _shortest(errors: Sequence[str], message: str) -> str:
    """The line of the errors that says most: the builder's own, without its source files."""
    lines = [line for error in errors for line in error.splitlines() if "Error Code" in line]
    lines = lines or [line for error in errors for line in error.splitlines()] or [message]
    cause = _REASON.search(lines[0])
    text = cause["text"] if cause is not None else lines[0]
    return text.removeprefix("[E] ").strip()[:_LONGEST] or "no reason given"
