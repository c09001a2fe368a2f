"""The builder's errors as a user's: which node, which rule, what to do."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from exporter.engine.backend import Backend
from exporter.errors import DebExportError, InputError, MissingDependencyError
from plugins.disentangled_attention.contract import QUERIES

_PARSER = re.compile(
    r"In node -?\d+ with name: (?P<node>.*?) and operator: (?P<operator>\S+) "
    r"\((?P<rule>\w+)\): (?P<code>[A-Z_]+): (?P<reason>.*)",
    re.DOTALL,
)
_REASON = re.compile(r"Error Code \d+: (?P<kind>[^(]+?) ?\((?P<text>.*) In \w+ at ", re.DOTALL)
_CONDITION = re.compile(r'^(Assertion failed: .*?: |[\w !&|().>=<-]*&& ")')
_OTHER_TARGET = "choose another --precision or --compute-capability"
_REASONS: tuple[tuple[str, type[DebExportError], str], ...] = (
    (
        r"Compute capability (?P<major>\d+)\.(?P<minor>\d+) \(\w+\) +not supported",
        InputError,
        "--compute-capability {major}{minor}: {title} here does not build for it; "
        "see deb-export doctor",
    ),
    (
        r"Cannot compile operation '(?P<node>.*?)' for (?P<gpu>[^:]*): (?P<rule>[^.]*)",
        InputError,
        "{title}: node {node!r} cannot be built for {gpu}: {rule}; " + _OTHER_TARGET,
    ),
    (
        r"Cannot compile for target\(s\) (?P<gpu>[\w, ]+), because .*datatypes: (?P<types>[\w, ]+)",
        InputError,
        "{title}: {gpu} has no kernels for {types}; " + _OTHER_TARGET,
    ),
    (
        r"(?i)within workspace limit|insufficient (memory|workspace)",
        InputError,
        "{title}: no kernel works within the --workspace given; give more, or none",
    ),
    (
        r"(?i)out of memory|bad_alloc|OutOfMemory|Error Code 2\b|cudaError 2\b",
        MissingDependencyError,
        "{title}: not enough memory to build; give a smaller --batch or --seq, "
        "or use a machine with more",
    ),
    (
        r"CUDA driver version is insufficient|no CUDA-capable device|cudaError (35|100)\b"
        r"|CHECK\(status == CUDA_SUCCESS\)",
        MissingDependencyError,
        "{title}: this build needs a GPU and its driver, and finds none",
    ),
)
"""What the builder's words mean: a sign of it, and what to raise with the sign's groups."""
_LONGEST = 300


def translate(backend: Backend, graph: str, errors: Sequence[str], message: str) -> DebExportError:
    """The error to raise for a failed build of the ONNX file `graph`.

    `errors` is what the builder logged as errors, in order; `message` the exception it ended with.
    """
    for line in errors:
        if found := _PARSER.search(line):
            return _parser_error(backend, graph, found)
    text = "\n".join([*errors, message])
    for sign, kind, reason in _REASONS:
        if found := re.search(sign, text):
            groups = {name: value.strip() for name, value in found.groupdict().items()}
            return kind(reason.format(title=backend.title, **groups))
    # The line that says most: the builder's own, without its source files.
    lines = [line for error in errors for line in error.splitlines()] or [message]
    first = next((line for line in lines if "Error Code" in line), lines[0])
    cause = _REASON.search(first)
    said = (cause["text"] if cause else first).removeprefix("[E] ").strip()[:_LONGEST]
    return InputError(f"{backend.title} cannot build {graph}: {said or 'no reason given'}")


def died(backend: Backend, graph: str, code: int, stderr: str) -> DebExportError:
    """The error to raise when the builder's process ended without a word.

    `code` is its exit code, negative for a signal; `stderr` the end of what it printed.
    """
    if code == -signal.SIGKILL:
        return MissingDependencyError(
            f"{backend.title}: the system stopped the build, most likely for want of memory; "
            "use a machine with more, or another --precision"
        )
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    last = stderr.strip().splitlines()[-1:]
    said = f" ({last[0].strip()[:_LONGEST]})" if last else ""
    return InputError(
        f"{graph}: {backend.title} ended with {how}{said}; is it a graph of deb-export build?"
    )


def _parser_error(backend: Backend, graph: str, found: re.Match[str]) -> DebExportError:
    node, operator, reason = found["node"], found["operator"], found["reason"]
    where = f"{graph}: {backend.title} refuses node {node!r} ({operator})"
    if "Plugin not found" in reason:
        what = "it has no such operator"
        if operator in QUERIES:
            return MissingDependencyError(
                f"{where}: {what}, and the graph has no function for it; build the graph again"
            )
        return InputError(f"{where}: {what}; use a graph of deb-export build")
    cause = _REASON.search(reason)
    rule = cause["text"] if cause else _CONDITION.sub("", reason.splitlines()[0])
    rule = rule.removeprefix(f"{node}: ").partition(" Please set ")[0].strip().rstrip(".")
    return InputError(
        f"{where}: {found['code']} in {found['rule']}: {rule[:_LONGEST]}; "
        "use a graph of deb-export build, or report it"
    )
