"""Which linear layers are quantized: the policy, and what it makes of one graph.

Tables of embeddings have no policy but yes or no. LayerNorm, softmax, pooler and classifier are not
sites at all: they stay in float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calibration.calibration_error import CalibrationError
from calibration.sites import Site, SiteKind
from calibration.tables import Table

_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True)
class PlacementPolicy:
    """What to quantize. By default every site is.

    Attributes:
        kinds, layers: kinds of linear layers, and encoder layers to quantize; None for all.
        include: regular expressions; a site's name must contain a match of one if there are any.
        exclude: regular expressions; a site whose name contains a match of any stays in float.

    Raises:
        CalibrationError: an expression is malformed.
    """

    kinds: tuple[SiteKind, ...] = tuple(SiteKind)
    layers: tuple[int, ...] | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                reason = f"{pattern!r} is not a regular expression ({error})"
                raise CalibrationError(f"placement: {reason}") from None


@dataclass(frozen=True)
class Placement:
    """Every site of a graph: quantized, or kept in float for a reason, by its name; tables too."""

    quantized: tuple[Site, ...]
    kept: Mapping[str, str]
    tables: tuple[Table, ...] = ()

    def keep(self, names: Sequence[str], reason: str) -> Placement:
        """The placement with the named sites and tables in float as well."""
        known = (item.name for items in (self.quantized, self.tables) for item in items)
        moved = {name: reason for name in known if name in names}
        rest = tuple(site for site in self.quantized if site.name not in names)
        tables = tuple(table for table in self.tables if table.name not in names)
        return Placement(rest, {**self.kept, **moved}, tables)


def parse_layers(text: str) -> tuple[int, ...]:
    """Layers that `"0-5,8"` names, sorted; a CalibrationError says what is malformed."""
    layers: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise CalibrationError(f"layers {text!r}: give numbers and ranges, as in 0-5,8")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def place(policy: PlacementPolicy, sites: Sequence[Site]) -> Placement:
    """Apply a policy to the sites of a graph.

    Raises:
        CalibrationError: a layer that the model lacks, an expression that matches no site, or
            nothing left to quantize.
    """
    layers = sorted({site.layer for site in sites})
    for layer in policy.layers or ():
        if layer not in layers:
            raise CalibrationError(
                f"placement: no layer {layer}; the model has layers {layers[0]} to {layers[-1]}"
            )
    for pattern in (*policy.include, *policy.exclude):
        if not any(re.search(pattern, site.name) for site in sites):
            raise CalibrationError(
                f"placement: {pattern!r} matches no linear layer; names are as in {sites[0].name}"
            )
    reasons = {site.name: _reason_to_keep(policy, site) for site in sites}
    quantized = tuple(site for site in sites if reasons[site.name] is None)
    if not quantized:
        raise CalibrationError(
            "placement: every linear layer is excluded, so nothing is left to quantize"
        )
    return Placement(quantized, {name: why for name, why in reasons.items() if why is not None})


def _reason_to_keep(policy: PlacementPolicy, site: Site) -> str | None:
    if site.kind not in policy.kinds:
        return f"kind {site.kind.value} is not selected"
    if policy.layers is not None and site.layer not in policy.layers:
        return "layer is not selected"
    if policy.include and not any(re.search(p, site.name) for p in policy.include):
        return "no include expression matches"
    matches = [pattern for pattern in policy.exclude if re.search(pattern, site.name)]
    return f"excluded by {matches[0]!r}" if matches else None
