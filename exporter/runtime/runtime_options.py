"""How a session runs; `docs/runtime.md` says how the defaults were found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from exporter.errors import InputError
from exporter.threads import cpu_quota, default_threads, openmp_threads

THREADS_VARIABLE = "DEB_EXPORT_THREADS"
TOKENS_VARIABLE = "DEB_EXPORT_TOKENS"
KERNEL_VARIABLE = "DEB_EXPORT_ATTENTION_KERNEL"

TOKENS_PER_THREAD = 512
"""Tokens of a batch for each thread: on a CPU, more make it no faster and pad more."""

PRECISIONS = ("f32", "bf16", "f16")
HINTS = ("latency", "throughput")
ATTENTION_KERNELS = ("body", "native")


@dataclass(frozen=True)
class RuntimeOptions:
    """Options of a session. None takes the environment variable's, else what suits the machine.

    Attributes:
        threads: that compute one batch, on a CPU.
        tokens: tokens in a batch of `session(texts)`, padding counted; one text may have more.
        batch: texts in a batch of `session(texts)`.
        window: texts that are sorted by length together; no more of them are in memory at once.
        spinning: whether idle threads of ONNX Runtime wait busily for the next operator, which
            answers sooner and takes processor time from others.
        precision: OpenVINO's arithmetic, one of `PRECISIONS`; the artifact's own by default.
        hint: OpenVINO's aim, one of `HINTS`: "latency" computes a batch with all threads,
            "throughput" several batches of `session(texts)` at a time.
        cache: folder where OpenVINO keeps compiled models, so that the next start is quicker.
        attention_kernel: of ONNX Runtime on a CPU, one of `ATTENTION_KERNELS`: "body" computes the
            attention as the file says, "native" with our own operator; which is the default where
            its library was built.

    Raises:
        InputError: a value out of its range.
    """

    threads: int | None = None
    tokens: int | None = None
    batch: int | None = None
    window: int = 1024
    spinning: bool | None = None
    precision: str | None = None
    hint: str | None = None
    cache: Path | None = None
    attention_kernel: str | None = None

    def __post_init__(self) -> None:
        if self.cache is not None:
            object.__setattr__(self, "cache", Path(self.cache))
        for name in ("threads", "tokens", "batch", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; give at least 1")
        choosable = {"precision": PRECISIONS, "hint": HINTS, "attention_kernel": ATTENTION_KERNELS}
        for name, choices in choosable.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise InputError(f"{name} {value!r}: unknown; choose from {', '.join(choices)}")

    def given(self) -> tuple[str, ...]:
        """Names of the options that differ from their defaults."""
        return tuple(item.name for item in fields(self) if getattr(self, item.name) != item.default)

    def resolved(self, environment: Mapping[str, str] | None = None) -> RuntimeOptions:
        """The options of a CPU with threads, tokens, spinning, and the attention's kernel where a
        variable names it, chosen.

        `environment` has variables; those of the process by default. OMP_NUM_THREADS, which Ray and
        others set for a process with a share of a machine, counts where nothing else says.

        Raises:
            InputError: a variable is set to something else than a whole number of at least 1, or
                than a kernel.
        """
        variables = os.environ if environment is None else environment
        threads = self.threads or _variable(THREADS_VARIABLE, variables)
        threads = threads or openmp_threads(variables) or default_threads()
        at_once = 1 if self.hint == "throughput" else threads or os.cpu_count() or 1
        tokens = self.tokens or _variable(TOKENS_VARIABLE, variables) or TOKENS_PER_THREAD * at_once
        # Under a quota, a thread that waits busily uses up what the others compute with.
        spinning = cpu_quota() is None if self.spinning is None else self.spinning
        kernel = self.attention_kernel or variables.get(KERNEL_VARIABLE, "").strip() or None
        return replace(
            self, threads=threads, tokens=tokens, spinning=spinning, attention_kernel=kernel
        )


DEFAULTS = RuntimeOptions()
BODY = RuntimeOptions(attention_kernel="body")
"""For who is to see what the file says, whatever library is there."""


def make_folder(folder: Path) -> None:
    """Make the folder of a cache, or raise an InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from None


def _variable(name: str, variables: Mapping[str, str]) -> int | None:
    text = variables.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise InputError(f"{name} is {text!r}; set it to a whole number of at least 1")
    return int(text)
