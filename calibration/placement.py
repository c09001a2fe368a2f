"""Which linear layers are quantized: the policy, and what it makes of one graph.

Embeddings, LayerNorm, softmax, pooler and classifier are not sites at all: they stay in float.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from calibration.errors import CalibrationError
from calibration.sites import Site, SiteKind

_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


@dataclass(frozen=True)
class PlacementPolicy:
    """What to quantize. By default every site is.

    Attributes:
        kinds: kinds of linear layers to quantize.
        layers: encoder layers to quantize; None for all.
        include: regular expressions; where any is given, a site's name must contain a match of
            at least one.
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
class KeptSite:
    """A site that stays in float, and why."""

    site: Site
    reason: str


@dataclass(frozen=True)
class Placement:
    """Every site of a graph, quantized or kept."""

    quantized: tuple[Site, ...]
    kept: tuple[KeptSite, ...]

    def keep(self, names: Sequence[str], reason: str) -> Placement:
        """The placement with the named sites in float as well."""
        moved = tuple(KeptSite(site, reason) for site in self.quantized if site.name in names)
        rest = tuple(site for site in self.quantized if site.name not in names)
        return Placement(rest, (*self.kept, *moved))


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
    _check(policy, sites)
    reasons = [(site, _reason_to_keep(policy, site)) for site in sites]
    quantized = tuple(site for site, reason in reasons if reason is None)
    if not quantized:
        raise CalibrationError(
            "placement: every linear layer is excluded, so nothing is left to quantize"
        )
    kept = (KeptSite(site, reason) for site, reason in reasons if reason is not None)
    return Placement(quantized, tuple(kept))


def _check(policy: PlacementPolicy, sites: Sequence[Site]) -> None:
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


def _reason_to_keep(policy: PlacementPolicy, site: Site) -> str | None:
    if site.kind not in policy.kinds:
        return f"kind {site.kind.value} is not selected"
    if policy.layers is not None and site.layer not in policy.layers:
        return "layer is not selected"
    if policy.include and not any(re.search(p, site.name) for p in policy.include):
        return "no include expression matches"
    matches = [pattern for pattern in policy.exclude if re.search(pattern, site.name)]
    return f"excluded by {matches[0]!r}" if matches else None
