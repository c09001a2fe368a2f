"""Shape profiles: the ranges of batch and length that an engine is built for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.errors import InputError

if TYPE_CHECKING:  # a command line starts without numpy
    from exporter.model.model_shape import ModelShape


@dataclass(frozen=True)
class Range:
    """Smallest, usual and largest value of a dynamic dimension.

    Raises InputError unless 1 <= min <= opt <= max.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if self.min < 1:
            raise InputError(f"range {self}: the minimum must be at least 1")
        if not self.min <= self.opt <= self.max:
            raise InputError(f"range {self}: give MIN,OPT,MAX with MIN <= OPT <= MAX, as in 1,8,32")

    @classmethod
    def parse(cls, text: str, option: str = "range") -> Range:
        """The range that `"MIN,OPT,MAX"` names; one number stands for all three.

        Raises InputError, naming `option`, unless it is three whole numbers in order.
        """
        try:
            numbers = [int(part) for part in text.split(",")]
            low, usual, high = numbers * 3 if len(numbers) == 1 else numbers
        except ValueError:
            wanted = "give MIN,OPT,MAX as whole numbers, as in 1,8,32"
            raise InputError(f"{option} {text!r}: {wanted}") from None
        try:
            return cls(low, usual, high)
        except InputError as error:
            raise InputError(f"{option}: {error}") from None

    def __str__(self) -> str:
        return f"{self.min},{self.opt},{self.max}"


CHOICES = Range(1, 4, 8)
"""Choices for each prompt of a multiple-choice model; only its inputs have this dimension."""


@dataclass(frozen=True)
class ShapeProfile:
    """Smallest, usual and largest shape; the kernels are chosen for the usual one.

    `choices` is None unless the inputs are `(B, C, S)`.
    """

    batch: Range
    seq: Range
    choices: Range | None = None

    @classmethod
    def parse(cls, text: str) -> ShapeProfile:
        """The profile that `"1,8,32x1,128,512"` names: batch, then length.

        Raises InputError unless it is two ranges with an x between.
        """
        batch, cross, seq = text.partition("x")
        option = f"--profile {text!r}"
        if not cross:
            raise InputError(f"{option}: give BATCHxSEQ, as in 1,8,32x1,128,512")
        return cls(Range.parse(batch, option), Range.parse(seq, option))

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Smallest, usual and largest shape of an input, `(B, S)` or `(B, C, S)`."""
        choices = () if self.choices is None else (self.choices,)
        dims = (self.batch, *choices, self.seq)
        low, usual, high = zip(*((dim.min, dim.opt, dim.max) for dim in dims), strict=True)
        return low, usual, high

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether inputs of `shape` are within it."""
        low, _, high = self.shapes
        within = (a <= size <= b for a, size, b in zip(low, shape, high, strict=False))
        return len(shape) == len(low) and all(within)

    def __str__(self) -> str:
        choices = "" if self.choices is None else f", choices {self.choices}"
        return f"batch {self.batch}{choices}, length {self.seq}"


def profiles_for(
    given: Sequence[ShapeProfile], batch: Range, seq: Range, shape: ModelShape
) -> tuple[ShapeProfile, ...]:
    """The profiles of a build: those given, or one of the `batch` and `seq` the artifact is for.

    Raises InputError for a length that the model has no positions for, or the artifact is not for.
    """
    profiles = tuple(given) or (ShapeProfile(batch, seq),)
    longest = shape.longest
    for profile in profiles:
        if longest is not None and profile.seq.max > longest:
            raise InputError(
                f"--profile {profile}: the model has positions for {longest} tokens "
                "(max_position_embeddings); choose a smaller maximum"
            )
    if max(profile.seq.max for profile in profiles) < seq.max:
        raise InputError(
            f"--profile: no profile takes texts of {seq.max} tokens, which the artifact is for; "
            "add one, or build for shorter texts with --seq"
        )
    if shape.rank == 2:
        return profiles
    return tuple(ShapeProfile(item.batch, item.seq, item.choices or CHOICES) for item in profiles)
