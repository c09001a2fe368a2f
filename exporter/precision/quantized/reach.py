"""How far values of the judged texts reach beyond those that calibration saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from calibration.graphs import Feeds
from calibration.observe import observe
from calibration.sites import find_sites
from calibration.table import ScaleTable
from exporter.runtime.providers.onnx_session import open_fp32


@dataclass(frozen=True)
class Reach:
    """Of `layers` linear layers, those whose inputs went further than on any calibration text.

    `furthest` is the largest ratio of the two magnitudes, 0 without a layer, and `where` its layer.
    """

    layers: int
    beyond: tuple[str, ...]
    furthest: float
    where: str

    def __str__(self) -> str:
        found = f"the judged texts reach beyond the calibrated range in {len(self.beyond)} of "
        found += f"{self.layers} linear layers"
        return found + (f", {self.furthest:.3g} times in {self.where}" if self.beyond else "")


def reach(graph: Path, table: ScaleTable, batches: Sequence[Feeds]) -> Reach:
    """Observe the inputs of the linear layers of an fp32 graph on the judged batches.

    Raises:
        CalibrationError: NaN in an activation.
    """
    sites = [site for site in find_sites(ir.load(graph)) if site.name in table.tensors]
    seen = observe(graph, [site.activation for site in sites], batches, open_fp32)
    ratios = {}
    for site in sites:
        known, found = table.tensors[site.name], seen[site.activation]
        largest = max(abs(known.minimum), abs(known.maximum))
        now = max(abs(float(found.channel_min.min())), abs(float(found.channel_max.max())))
        ratios[site.name] = now / largest if largest else float(now > 0)
    beyond = tuple(name for name, ratio in ratios.items() if ratio > 1)
    where = max(ratios, key=lambda name: ratios[name], default="")
    return Reach(len(sites), beyond, ratios.get(where, 0.0), where)
