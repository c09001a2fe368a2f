"""The placement policy: kinds, layers, regular expressions, and mistakes in them."""

from __future__ import annotations

import pytest

from calibration.calibration_error import CalibrationError
from calibration.placement import PlacementPolicy, parse_layers, place
from calibration.sites import Site, SiteKind

PATHS = {
    SiteKind.QKV: "attention.self.qkv",
    SiteKind.ATTENTION_OUTPUT: "attention.output.dense",
    SiteKind.INTERMEDIATE: "intermediate.dense",
    SiteKind.OUTPUT: "output.dense",
}


def make_site(layer: int, kind: SiteKind) -> Site:
    name = f"deberta.encoder.layer.{layer}.{PATHS[kind]}"
    return Site(name, kind, layer, "x", "y", f"{name}.weight", f"{name}.bias", 8, 8)


SITES = tuple(make_site(layer, kind) for layer in range(12) for kind in SiteKind)


def names(policy: PlacementPolicy) -> list[str]:
    return [
        site.name.removeprefix("deberta.encoder.layer.") for site in place(policy, SITES).quantized
    ]


def test_everything_is_quantized_by_default() -> None:
    placement = place(PlacementPolicy(), SITES)
    assert placement.quantized == SITES
    assert placement.kept == {}


def test_kinds_layers_and_expressions_all_have_to_agree() -> None:
    policy = PlacementPolicy(
        kinds=(SiteKind.QKV, SiteKind.OUTPUT),
        layers=(1, 2, 11),
        include=(r"\.(1|2)\.", r"11\.output"),
        exclude=(r"2\.output\.dense$",),
    )
    assert names(policy) == [
        "1.attention.self.qkv",
        "1.output.dense",
        "2.attention.self.qkv",
        "11.output.dense",
    ]


def test_every_kept_site_has_its_reason() -> None:
    policy = PlacementPolicy(
        kinds=tuple(kind for kind in SiteKind if kind is not SiteKind.QKV),
        layers=tuple(range(11)),
        include=("dense",),
        exclude=("intermediate",),
    )
    placement = place(policy, SITES)
    reasons = placement.kept
    assert len(reasons) + len(placement.quantized) == len(SITES)
    prefix = "deberta.encoder.layer"
    assert reasons[f"{prefix}.0.attention.self.qkv"] == "kind qkv is not selected"
    assert reasons[f"{prefix}.11.output.dense"] == "layer is not selected"
    assert reasons[f"{prefix}.3.intermediate.dense"] == "excluded by 'intermediate'"


def test_keeping_more_moves_sites_with_the_reason() -> None:
    placement = place(PlacementPolicy(), SITES)
    name = SITES[7].name
    kept = placement.keep([name], "costs too much")
    assert name not in [site.name for site in kept.quantized]
    assert kept.kept == {name: "costs too much"}
    assert len(placement.quantized) == len(SITES)


@pytest.mark.parametrize(
    ("text", "layers"),
    [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("7, 2-3", (2, 3, 7)), ("1-1,1", (1,))],
)
def test_layers_are_read(text: str, layers: tuple[int, ...]) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-1", "1-", "1.5"])
def test_malformed_layers_are_refused(text: str) -> None:
    with pytest.raises(CalibrationError, match="as in 0-5,8"):
        parse_layers(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (12,)}, "no layer 12; the model has layers 0 to 11"),
        ({"include": ("pooler",)}, "'pooler' matches no linear layer"),
        ({"exclude": ("layer.99",)}, "'layer.99' matches no linear layer"),
        ({"exclude": ("layer",)}, "nothing is left to quantize"),
        ({"include": ("(",)}, r"'\(' is not a regular expression"),
    ],
)
def test_mistakes_are_named(changes: dict[str, tuple[str, ...]], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        place(PlacementPolicy(**changes), SITES)  # type: ignore[arg-type]
