"""Ranges and profiles of shapes: what they take, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from calibration.json_values import from_json_values, to_json_values
from exporter.deberta.configuration import DebertaConfig
from exporter.errors import InputError
from exporter.model.model_shape import ModelShape
from exporter.model.profile import CHOICES, Range, ShapeProfile, profiles_for
from exporter.model.task import Task

FIELDS = {
    "model_type": "deberta-v2",
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 160,
}


def shape(task: Task = Task.BASE, **changes: object) -> ModelShape:
    return DebertaConfig.from_dict({**FIELDS, **changes}).shape(task)


def test_a_profile_has_the_shapes_of_the_inputs() -> None:
    profile = ShapeProfile.parse("1,8,32x2,128,512")
    assert profile.shapes == ((1, 2), (8, 128), (32, 512))
    three = replace(profile, choices=Range(2, 3, 4))
    assert three.shapes == ((1, 2, 2), (8, 3, 128), (32, 4, 512))
    assert from_json_values(to_json_values(three), ShapeProfile) == three
    assert from_json_values(to_json_values(profile), ShapeProfile) == profile


@pytest.mark.parametrize(
    ("taken", "inputs"),
    [
        (True, (1, 2)),
        (True, (32, 512)),
        (True, (7, 77)),
        (False, (33, 512)),
        (False, (1, 1)),
        (False, (1, 513)),
        (False, (1, 2, 3)),
    ],
)
def test_a_profile_takes_what_is_within_it(taken: bool, inputs: tuple[int, ...]) -> None:
    assert ShapeProfile.parse("1,8,32x2,128,512").takes(inputs) is taken


@pytest.mark.parametrize("text", ["1,8,32", "1,8,32x4,2,8", "x", "0,1,2x1,2,3", "1x2x3"])
def test_a_profile_that_is_none(text: str) -> None:
    with pytest.raises(InputError, match="--profile"):
        ShapeProfile.parse(text)


def test_the_default_profile_is_the_artifacts_range() -> None:
    batch, seq = Range(1, 8, 32), Range(1, 128, 160)
    assert profiles_for((), batch, seq, shape()) == (ShapeProfile(batch, seq),)
    (profile,) = profiles_for((), batch, seq, shape(Task.MULTIPLE_CHOICE))
    assert profile.choices == CHOICES


def test_a_profile_longer_than_the_model_is_refused() -> None:
    given = (ShapeProfile.parse("1,1,1x1,8,161"),)
    with pytest.raises(InputError, match="positions for 160 tokens"):
        profiles_for(given, Range(1, 1, 1), Range(1, 8, 160), shape(position_biased_input=True))
    relative = shape(position_biased_input=False)
    assert profiles_for(given, Range(1, 1, 1), Range(1, 8, 160), relative) == given


def test_profiles_shorter_than_the_artifact_are_refused() -> None:
    with pytest.raises(InputError, match="no profile takes texts of 160 tokens"):
        profiles_for([ShapeProfile.parse("1x1,8,64")], Range(1, 1, 1), Range(1, 8, 160), shape())


@pytest.mark.parametrize(
    ("text", "expected"), [("1,8,32", (1, 8, 32)), ("4", (4, 4, 4)), (" 1, 2 ,2 ", (1, 2, 2))]
)
def test_ranges_are_read(text: str, expected: tuple[int, int, int]) -> None:
    found = Range.parse(text)
    assert (found.min, found.opt, found.max) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "1,2", "1,2,3,4", "1.5,2,3", "0,1,2", "-1,1,1", "3,2,4", "1,5,4", "1,,2"]
)
def test_wrong_ranges_are_refused_by_the_option_name(text: str) -> None:
    with pytest.raises(InputError, match="--seq"):
        Range.parse(text, "--seq")
