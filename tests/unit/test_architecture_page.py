"""docs/architecture.md is true to the tree: its rooms, its paths, its functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.unit.test_imports import ROOMS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SECTIONS = {
    part.partition("\n")[0]: part.partition("\n")[2] for part in re.split(r"^## ", PAGE, flags=re.M)
}
PLACE = re.compile(r"`([\w./]+/[\w./]*)(?:: (\w+))?`")
PLACES = sorted(set(PLACE.findall(PAGE)))


def rows(section: str) -> list[list[str]]:
    """Cells of a table, without its head."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_picture_has_every_room_in_the_order_of_imports() -> None:
    picture = re.search(r"```\n(.*?)```", SECTIONS["The rooms"], re.DOTALL)
    assert picture is not None
    drawn = re.findall(r"^│ (\w+) ", picture[1], re.MULTILINE)
    assert drawn == [room.removeprefix("exporter.") for room in ROOMS]


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_what_the_page_names_is_there(path: str, name: str) -> None:
    assert (ROOT / path).exists(), path
    if name:
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        defined = [n.name for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        assert name in defined, f"{path} defines {defined}"


def test_each_step_of_the_build_names_a_function() -> None:
    steps = rows("One build from top to bottom")
    assert [int(number) for number, *_ in steps] == list(range(1, len(steps) + 1))
    for number, _, where in steps:
        places = PLACE.findall(where)
        assert places and all(name for _, name in places), f"step {number}: {where}"


def test_ten_questions_have_a_place_each() -> None:
    questions = rows("Ten questions")
    assert len(questions) == 10
    for question, answer in questions:
        assert question.endswith("?")
        assert PLACE.findall(answer), question
