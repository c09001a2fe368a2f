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
_REASONS: tuple[tuple[re.Pattern[str], type[DebExportError], str], ...] = (
    (
        re.compile(r"Compute capability (?P<major>\d+)\.(?P<minor>\d+) \(\w+\) +not supported"),
        InputError,
        "--compute-capability {major}{minor}: {title} here does not build for it; "
        "see deb-export doctor",
    ),
    (
        re.compile(r"Cannot compile operation '(?P<node>.*?)' for (?P<gpu>[^:]*): (?P<rule>[^.]*)"),
        InputError,
        "{title}: node {node!r} cannot be built for {gpu}: {rule}; "
        "choose another --precision or --compute-capability",
    ),
    (
        re.compile(
            r"Cannot compile for target\(s\) (?P<gpu>[\w, ]+), "
            r"because .*datatypes: (?P<types>[\w, ]+)"
        ),
        InputError,
        "{title}: {gpu} has no kernels for {types}; "
        "choose another --precision or --compute-capability",
    ),
    (
        re.compile(r"within workspace limit|insufficient (memory|workspace)", re.IGNORECASE),
        InputError,
        "{title}: no kernel works within the --workspace given; give more, or none",
    ),
    (
        re.compile(
            r"out of memory|bad_alloc|OutOfMemory|Error Code 2\b|cudaError 2\b", re.IGNORECASE
        ),
        MissingDependencyError,
        "{title}: not enough memory to build; give a smaller --batch or --seq, "
        "or use a machine with more",
    ),
    (
        re.compile(
            r"CUDA driver version is insufficient|no CUDA-capable device|cudaError (35|100)\b"
            r"|CHECK\(status == CUDA_SUCCESS\)"
        ),
        MissingDependencyError,
        "{title}: this build needs a GPU and its driver, and finds none",
    ),
)
"""What the builder's words mean: a sign of it, and what to raise with the sign's groups."""
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
    for line in errors:
        if found := _PARSER.search(line):
            return _parser_error(backend, graph, found)
    text = "\n".join([*errors, message])
    for sign, kind, reason in _REASONS:
        if found := sign.search(text):
            groups = {name: value.strip() for name, value in found.groupdict().items()}
            return kind(reason.format(title=backend.title, **groups))
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
