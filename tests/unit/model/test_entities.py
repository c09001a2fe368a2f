"""Labels of tokens as entities, against runs written out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.model.entities import Tag, entity_runs, tags_of

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.mark.parametrize(
    ("labels", "starts", "expected"),
    [
        ("O B-PER I-PER O", "0", {(1, 3, "PER")}),
        ("B-PER B-PER I-PER", "0", {(0, 1, "PER"), (1, 3, "PER")}),
        ("I-PER I-LOC I-LOC", "0", {(0, 1, "PER"), (1, 3, "LOC")}),  # IOB1 has no B- here
        ("B-PER I-LOC", "0", {(0, 1, "PER"), (1, 2, "LOC")}),
        ("I-PER I-PER I-PER", "0 2", {(0, 2, "PER"), (2, 3, "PER")}),  # a text ends between
        ("O O", "0", set()),
        ("B-LOC O I-LOC", "0", {(0, 1, "LOC"), (2, 3, "LOC")}),
    ],
)
def test_entities_are_maximal_runs(
    labels: str, starts: str, expected: set[tuple[int, int, str]]
) -> None:
    found = [NAMES.index(name) for name in labels.split()]
    begins = np.isin(np.arange(len(found)), [int(i) for i in starts.split()])
    assert set(entity_runs(NAMES, np.array(found), begins)) == expected


def test_labels_without_a_prefix_are_types_themselves() -> None:
    starts = np.array([True, False, False, False, False])
    found = entity_runs(("O", "PER", "LOC"), np.array([1, 1, 2, 0, 1]), starts)
    assert found == [(0, 2, "PER"), (2, 3, "LOC"), (4, 5, "PER")]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("S-PER S-PER", [(0, 1, "PER"), (1, 2, "PER")]),
        ("B-PER I-PER E-PER I-PER", [(0, 3, "PER"), (3, 4, "PER")]),
        ("B-PER E-PER S-PER B-PER", [(0, 2, "PER"), (2, 3, "PER"), (3, 4, "PER")]),
        ("I-PER E-PER O I-PER", [(0, 2, "PER"), (3, 4, "PER")]),
    ],
)
def test_schemes_with_a_last_and_a_single_token(
    labels: str, expected: list[tuple[int, int, str]]
) -> None:
    names = ("O", "B-PER", "I-PER", "E-PER", "S-PER")
    found = np.array([names.index(name) for name in labels.split()])
    assert entity_runs(names, found, np.arange(len(found)) == 0) == expected


def test_a_type_may_look_like_a_prefix() -> None:
    assert tags_of(("O", "E-mail", "S-Bahn")) == (Tag("O"), Tag("E-mail"), Tag("S-Bahn"))
    assert tags_of(("B-mail", "E-mail")) == (Tag("mail", begins=True), Tag("mail", ends=True))
    assert tags_of(("I-x", "L-x", "U-x"))[1:] == (Tag("x", False, True), Tag("x", True, True))


def test_no_token_has_no_entity() -> None:
    assert entity_runs(NAMES, np.zeros(0, np.int64), np.zeros(0, np.bool_)) == []
