"""Texts of any length into batches that pad little: windows, sorted by length, cut by tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from math import prod
from typing import TypeVar

from exporter.inputs.encode import Example
from exporter.model.model_shape import ModelShape
from exporter.runtime.runtime_options import RuntimeOptions

_MAX_BATCH_ELEMENTS = 1 << 26
"""Bound on the tokens of a batch times the values that the model gives for each: 256 MiB."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batching:
    """Bounds of a batch and of what is sorted together.

    The defaults are those of a GPU, where nothing has been measured: full batches of 32.

    Attributes:
        tokens: positions of a batch, rows times the longest length. One text may have more.
        largest: texts of a batch.
        window: texts sorted together, the most that are held at once.
    """

    tokens: int = 1 << 14
    largest: int = 32
    window: int = 1024

    @classmethod
    def of(cls, options: RuntimeOptions) -> Batching:
        """The bounds that options give, with the defaults where they give none."""
        return cls(options.tokens or cls.tokens, options.batch or cls.largest, options.window)

    @classmethod
    def on_cpu(cls, options: RuntimeOptions) -> Batching:
        """The same on a CPU, where the tokens alone decide; `options` are resolved."""
        tokens = options.tokens or cls.tokens
        return cls(tokens, options.batch or tokens, options.window)


ON_GPU = Batching()


def windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter; takes no more than it gives."""
    source = iter(items)
    while window := list(islice(source, size)):
        yield window


def batches(
    examples: Sequence[Example], shape: ModelShape, batching: Batching
) -> Iterator[list[int]]:
    """Indices of the examples in batches, each index once, the longest examples first.

    All of a batch have the same number of rows. Its first example is its longest, which the others
    are padded to. The longest batch comes first, so that the runtime takes its memory once.
    """
    order = sorted(
        range(len(examples)), key=lambda i: (-len(examples[i].rows), -examples[i].length, i)
    )
    for rows, group in groupby(order, lambda i: len(examples[i].rows)):
        alike = list(group)
        while alike:
            one = (1, *((rows,) if shape.rank == 3 else ()), examples[alike[0]].length)
            most = (
                batching.tokens // prod(one),
                _MAX_BATCH_ELEMENTS // prod(shape.output_shape(one)),
            )
            size = max(1, min(batching.largest, *most))
            yield alike[:size]
            alike = alike[size:]
