"""What every change of precision gives to the build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.graph.finish import GraphSummary


@dataclass(frozen=True)
class Converted:
    """A graph in the precision asked for, with what the step did, for the manifest.

    `problems` fail whatever the parity check says, such as a missed accuracy budget;
    `notes` are for its readers.
    """

    summary: GraphSummary
    facts: dict[str, Any]
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
