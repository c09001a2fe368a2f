"""What to measure: one frozen configuration, validated where it is made."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from exporter.errors import InputError
from exporter.runtime.runtime_options import DEFAULTS, RuntimeOptions

_SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)", re.ASCII)


Contender: TypeAlias = "tuple[str, Path | None]"
"""A provider and the graph that it runs; None for the artifact's own."""


@dataclass(frozen=True)
class BenchConfig:
    """Options of one measurement.

    Attributes:
        artifact: folder that `deb-export build` wrote.
        against: other ONNX files of the same model, on every provider that runs graphs.
        providers: runtimes; the artifact on the first of them is what the others are compared with.
        shapes: batch and length in tokens of the timed inputs.
        data, texts: file of texts that are timed as they come, to predictions, and how many.
        rounds, warmup: runs of each contender, in turn, and of each before, not counted.
        limits: precision whose limits the outputs are held to; by default the artifact's, or that
            of OpenVINO's arithmetic where it is the coarser one.
        options: threads, batches and so on, for every provider that has them.

    Raises:
        InputError: an option's value cannot be measured.
    """

    artifact: Path
    against: tuple[Path, ...] = ()
    providers: tuple[str, ...] = ("cpu",)
    shapes: tuple[tuple[int, int], ...] = ((1, 128), (8, 128))
    data: Path | None = None
    texts: int = 256
    rounds: int = 10
    warmup: int = 2
    limits: str | None = None
    options: RuntimeOptions = DEFAULTS

    def __post_init__(self) -> None:
        from exporter.parity.limits import limits_for
        from exporter.runtime.load import GRAPH_PROVIDERS, PROVIDERS, check_options

        if unknown := [name for name in self.providers if name not in PROVIDERS]:
            known = ", ".join(PROVIDERS)
            raise InputError(f"--provider {unknown[0]!r}: unknown; choose from {known}")
        if not self.providers:
            raise InputError("--provider: give at least one")
        if len(set(self.providers)) < len(self.providers):
            raise InputError("--provider: each one once")
        for graph in self.against:
            if not graph.is_file():
                raise InputError(f"--against {graph}: no such file")
        if self.against and not set(self.providers) & set(GRAPH_PROVIDERS):
            wanted = ", ".join(GRAPH_PROVIDERS)
            raise InputError(f"--against: no --provider that runs graphs; add one of {wanted}")
        for name, least in (("rounds", 1), ("warmup", 0), ("texts", 1)):
            if getattr(self, name) < least:
                raise InputError(f"--{name} {getattr(self, name)}: give at least {least}")
        if not self.shapes and self.data is None:
            raise InputError("nothing to time; give a --shape or --data")
        if self.limits is not None:
            limits_for(self.limits)
        check_options(self.options, *self.providers)

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """The artifact on every provider, then each other graph on those that run graphs."""
        from exporter.runtime.load import GRAPH_PROVIDERS

        own = [(provider, None) for provider in self.providers]
        runs_graphs = [provider for provider in self.providers if provider in GRAPH_PROVIDERS]
        graphs = [(provider, graph) for graph in self.against for provider in runs_graphs]
        return (*own, *graphs)


def parse_shape(text: str) -> tuple[int, int]:
    """Batch and length that `"8x128"` names; an InputError for something else."""
    match = _SHAPE.fullmatch(text.strip())
    if match is None:
        raise InputError(f"--shape {text!r}: give BATCHxLENGTH, as in 8x128")
    return int(match[1]), int(match[2])
