"""The precision step of a build: the exported fp32 graph becomes the one that is delivered."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from calibration.texts import TextItem
from exporter.inputs.cases import CaseMaker, ParityCase
from exporter.inputs.data_sets import DEFAULT_TEXTS, examples_of
from exporter.inputs.encode import TextEncoder
from exporter.inputs.text_files import calibration_errors
from exporter.model.model_shape import ModelShape
from exporter.progress import Progress

if TYPE_CHECKING:
    from exporter.graph.export import GraphSummary
    from exporter.precision.half.types import HalfName

HALF_PRECISIONS = ("fp16", "bf16")
RANGE_TEXTS = 128
"""Texts that ranges are measured on, beside the odd shapes of a parity check."""


@dataclass(frozen=True)
class Converted:
    """A graph in the precision asked for.

    Attributes:
        summary: what the graph has now.
        facts: what the step did, for the manifest.
        problems: what fails whatever the parity check says, such as an accuracy budget.
    """

    summary: GraphSummary
    facts: dict[str, Any]
    problems: tuple[str, ...] = ()


def range_cases(
    shape: ModelShape,
    encoder: TextEncoder | None,
    texts: Sequence[TextItem],
    longest: int,
) -> tuple[ParityCase, ...]:
    """Inputs to measure ranges on: the texts, and every kind of shape and padding.

    Args:
        shape: the model.
        encoder: its tokenizer; without one the ids are random.
        texts: the texts, of which the first are used.
        longest: largest length in tokens.
    """
    count = min(RANGE_TEXTS, len(texts))
    if encoder is None:
        warnings.warn(
            "no tokenizer: ranges are measured on random token ids, which may reach less far than "
            "texts do",
            stacklevel=2,
        )
        count = DEFAULT_TEXTS
    maker = CaseMaker(shape, examples_of(shape, encoder, texts, longest), longest)
    return (*maker.shapes().cases, *maker.texts("texts", count).cases)


def to_half(
    source: Path,
    target: Path,
    precision: str,
    cases: tuple[ParityCase, ...],
    summary: GraphSummary,
    external_data: bool | None,
    say: Progress,
    label: str | None = None,
) -> Converted:
    """Write the graph `source` in fp16 or bf16.

    Args:
        source: the exported fp32 graph.
        target: the file to write.
        precision: one of `HALF_PRECISIONS`.
        cases: inputs to measure ranges on.
        summary: what the export made.
        external_data: see `BuildConfig`.
        say: told what is going on.
        label: precision that the file says it has, where this is only that of a part of it.

    Raises:
        InputError: a value of the fp32 graph is NaN.
    """
    from exporter.precision.half.half_file import write_half
    from exporter.precision.half.types import HalfName

    if precision not in get_args(HalfName):
        raise ValueError(f"{precision} is not a half precision")
    with calibration_errors():
        made = write_half(
            source,
            target,
            cast("HalfName", precision),
            [case.feeds for case in cases],
            external_data=external_data,
            metadata={"deb_export.precision": label or precision},
            progress=lambda message: say(f"{precision}: {message}"),
        )
    report = made.report
    if report.recommend_bf16:
        warnings.warn(
            f"{report.kept_share:.0%} of the weights stay in fp32, since their values come near "
            "the limits of fp16; --precision bf16 halves all of them",
            stacklevel=2,
        )
    facts = asdict(report)
    facts["kept_fp32"] = [asdict(item) for item in report.kept_fp32]
    return Converted(
        summary=replace(
            summary,
            nodes=made.nodes,
            initializers=made.initializers,
            weight_bytes=made.written.weight_bytes,
            files=made.written.files,
        ),
        facts={"half": facts},
    )
