"""Accuracy budget: what each part costs, and which parts fall back to float to keep within it.

A unit is a site, a whole layer, or a table of embeddings. What it costs is what a quantized model
wins when this unit alone is in float. The costliest fall back, one after the other, until the model
is within its budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor

from calibration.calibration_error import CalibrationError
from calibration.sites import Site
from calibration.tables import Table

MOST_FALLBACK = 0.5
"""Share of the units that may fall back: beyond it a model is hardly a quantized one."""
SITES_AT_MOST = 64
"""Up to so many sites each is a unit of its own; beyond, a unit is a layer."""


@dataclass(frozen=True)
class Damage:
    """What a quantized model changes, on text that was held back from calibration.

    Attributes:
        decisions, changed: those compared, 0 for a task without any, and those that differ.
        kl: mean KL divergence from the float model's probabilities, in nats.
        error: root mean square of the error of the outputs, relative to what tells them apart.
        lost: correct answers of the float model less those of the quantized one, by labels; None
            without labels.
    """

    decisions: int
    changed: int
    kl: float
    error: float
    lost: int | None = None

    @property
    def disagreement(self) -> float:
        return self.changed / self.decisions if self.decisions else 0.0

    @property
    def accuracy_loss(self) -> float | None:
        """Share of the answers that are no longer correct; negative for a gain."""
        return None if self.lost is None or not self.decisions else self.lost / self.decisions

    @property
    def size(self) -> float:
        """One smooth figure to compare two models by: KL, or squared error without decisions."""
        return self.kl if self.decisions else self.error**2


@dataclass(frozen=True)
class Budget:
    """What may be lost, as a share.

    With labels, at most this share of the answers may no longer be correct. Without, at most this
    share of the decisions may differ, and the mean KL divergence may be at most as many nats. For
    a task without decisions it bounds the relative error of the outputs.

    Raises:
        CalibrationError: not a share.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            reason = "give a share of the decisions, as in 0.003"
            raise CalibrationError(f"accuracy budget {self.share}: {reason}")

    def holds(self, damage: Damage) -> bool:
        if not damage.decisions:
            return damage.error <= self.share
        if damage.accuracy_loss is not None:
            return damage.accuracy_loss <= self.share
        return damage.disagreement <= self.share and damage.kl <= self.share


@dataclass(frozen=True)
class UnitCost:
    """What a unit costs.

    Attributes:
        unit, sites: names of the site, layer or table, and of its sites or itself.
        without: damage of the model with this unit alone in float.
        cost: by how much that lowers `Damage.size`; may be negative.
    """

    unit: str
    sites: tuple[str, ...]
    without: Damage
    cost: float
    fallback: bool = False


@dataclass(frozen=True)
class SensitivityReport:
    """What was measured and chosen.

    Attributes:
        before: damage with everything quantized that the placement says.
        after: damage of the model chosen.
        units: what each unit costs, the costliest first; none where `before` is within the budget.
        within: whether the model chosen is within the budget.
        measurements: models that were run.
    """

    budget: Budget
    before: Damage
    after: Damage
    units: tuple[UnitCost, ...]
    within: bool
    measurements: int

    @property
    def fallback(self) -> tuple[str, ...]:
        """Names of the sites and tables that stay in float."""
        return tuple(site for unit in self.units if unit.fallback for site in unit.sites)


def units_of(sites: Sequence[Site], tables: Sequence[Table] = ()) -> dict[str, tuple[str, ...]]:
    """Names of the sites of each unit: every site its own, or by layer where there are many. A
    table is a unit of its own."""
    units: dict[str, tuple[str, ...]] = {}
    for site in sites:
        unit = site.name if len(sites) <= SITES_AT_MOST else f"layer {site.layer}"
        units[unit] = (*units.get(unit, ()), site.name)
    return {**units, **{table.name: (table.name,) for table in tables}}


def fit_budget(
    units: Mapping[str, tuple[str, ...]],
    measure: Callable[[frozenset[str]], Damage],
    budget: Budget,
    progress: Callable[[str], None] = lambda message: None,
) -> SensitivityReport:
    """Choose the units that stay in float.

    Args:
        units: names of the sites of each unit.
        measure: damage of the model with the named sites in float.
    """
    progress("measuring the quantized model on held-back text")
    before = measure(frozenset())
    if budget.holds(before):
        return SensitivityReport(budget, before, before, (), within=True, measurements=1)
    costs = []
    for index, (unit, sites) in enumerate(units.items()):
        progress(f"sensitivity: {unit} ({index + 1} of {len(units)})")
        without = measure(frozenset(sites))
        costs.append(UnitCost(unit, sites, without, before.size - without.size))
    costs.sort(key=lambda item: -item.cost)
    most = max(1, floor(MOST_FALLBACK * len(units)))
    tried = [before, costs[0].without]  # by the number of units in float: one is measured already
    while not budget.holds(tried[-1]) and len(tried) <= most:
        progress(f"fallback: {len(tried)} of {len(units)} in float")
        names = frozenset(site for item in costs[: len(tried)] for site in item.sites)
        tried.append(measure(names))
    within = budget.holds(tried[-1])
    count = len(tried) - 1
    if not within:  # the least of what the budget bounds, then of its size
        losses = [(d.disagreement if d.lost is None else d.lost, d.size) for d in tried]
        count = losses.index(min(losses))
    chosen = (replace(item, fallback=index < count) for index, item in enumerate(costs))
    runs = len(units) + len(tried) - 1
    return SensitivityReport(budget, before, tried[count], tuple(chosen), within, runs)
