"""Random models in half precision, each made once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.half_cases import Case


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Case]:
    made: dict[int, Case] = {}

    def make(seed: int) -> Case:
        if seed not in made:
            made[seed] = Case(tmp_path_factory.mktemp("half"), seed)
        return made[seed]

    return make
