"""The search for fallbacks on a model of damage that is known in full."""

from __future__ import annotations

import pytest

from calibration.calibration_error import CalibrationError
from calibration.sensitivity import Budget, Damage, fit_budget, units_of
from calibration.sites import Site, SiteKind

COSTS = {"a": 0.001, "b": 0.020, "c": 0.004, "d": 0.0, "e": 0.010, "f": -0.0001}
UNITS = {name: (f"{name}.one", f"{name}.two") for name in COSTS}


class Model:
    """Damage adds up over the units that are quantized."""

    def __init__(self, decisions: int = 1000, labels: bool = False) -> None:
        self.decisions = decisions
        self.labels = labels
        self.measured: list[frozenset[str]] = []

    def __call__(self, floats: frozenset[str]) -> Damage:
        self.measured.append(floats)
        kl = sum(cost for unit, cost in COSTS.items() if f"{unit}.one" not in floats)
        changed = round(kl * self.decisions)
        lost = changed // 4 if self.labels else None
        return Damage(self.decisions, changed, kl, kl, lost)


def test_nothing_falls_back_within_the_budget() -> None:
    model = Model()
    report = fit_budget(UNITS, model, Budget(0.05))
    assert report.within and report.fallback == () and report.after == report.before
    # What a unit costs is not asked: one model is run.
    assert report.units == ()
    assert len(model.measured) == report.measurements == 1


@pytest.mark.parametrize(
    ("budget", "fallback"), [(0.016, ["b"]), (0.006, ["b", "e"]), (0.0015, ["b", "e", "c"])]
)
def test_the_costliest_fall_back_until_the_budget_holds(budget: float, fallback: list[str]) -> None:
    model = Model()
    report = fit_budget(UNITS, model, Budget(budget))
    assert report.within
    assert [unit.unit for unit in report.units if unit.fallback] == fallback
    assert report.fallback == tuple(site for name in fallback for site in UNITS[name])
    assert [unit.unit for unit in report.units] == ["b", "e", "c", "a", "d", "f"]
    for unit in report.units:
        assert unit.cost == pytest.approx(COSTS[unit.unit])
    assert report.after == Model()(frozenset(report.fallback))
    assert report.measurements == len(model.measured)


def test_an_unreachable_budget_gives_the_best_model() -> None:
    model = Model()
    report = fit_budget(UNITS, model, Budget(0.0))
    assert not report.within
    # Half of the units at most.
    assert [unit.unit for unit in report.units if unit.fallback] == ["b", "e", "c"]
    assert report.after.kl == pytest.approx(0.0009)
    assert report.measurements == len(model.measured)


def test_the_best_model_may_be_one_with_fewer_fallbacks() -> None:
    def worse(floats: frozenset[str]) -> Damage:
        return Damage(100, 10 + len(floats), 0.1, 0.1)

    report = fit_budget(UNITS, worse, Budget(0.01))
    assert not report.within and report.fallback == ()
    assert report.after == report.before


def test_labels_decide_where_they_are() -> None:
    assert not Budget(0.01).holds(Model()(frozenset()))
    assert Budget(0.01).holds(Model(labels=True)(frozenset()))
    assert not Budget(0.005).holds(Model(labels=True)(frozenset()))
    assert Budget(0.0).holds(Damage(100, 5, 0.5, 0.5, lost=-2))


def test_decisions_and_kl_both_count() -> None:
    assert Budget(0.01).holds(Damage(1000, 10, 0.01, 9.0))
    assert not Budget(0.01).holds(Damage(1000, 11, 0.001, 0.0))
    assert not Budget(0.01).holds(Damage(1000, 0, 0.011, 0.0))


def test_without_decisions_the_error_counts() -> None:
    assert Budget(0.02).holds(Damage(0, 0, 0.0, 0.02))
    assert not Budget(0.02).holds(Damage(0, 0, 0.0, 0.021))
    assert Damage(0, 0, 0.0, 0.5).size == 0.25


@pytest.mark.parametrize("share", [-0.1, 1.0, 99.8, float("nan")])
def test_a_budget_is_a_share(share: float) -> None:
    with pytest.raises(CalibrationError, match=r"as in 0\.003"):
        Budget(share)


def test_units_are_sites_and_layers_where_there_are_many() -> None:
    def sites(layers: int) -> list[Site]:
        return [
            Site(f"{layer}.{kind.value}", kind, layer, "x", "y", "w", "b", 4, 4)
            for layer in range(layers)
            for kind in SiteKind
        ]

    assert list(units_of(sites(16)).values()) == [(site.name,) for site in sites(16)]
    assert list(units_of(sites(17))) == [f"layer {layer}" for layer in range(17)]
    assert units_of(sites(17))["layer 3"] == tuple(f"3.{kind.value}" for kind in SiteKind)
