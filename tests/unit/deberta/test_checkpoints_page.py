"""docs/checkpoints.md names what the tables have."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.deberta import (
    adapter,
    gliner_configuration,
    model_folder,
    weight_names,
    weights,
)
from exporter.model.model_shape import LABEL_KINDS
from exporter.model.task import Task

PAGE = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
LISTED = {
    "renamed": [pattern.rpartition(")")[2].strip("$").replace("\\", "")
                for pattern in weight_names.RENAMED],
    "tied": list(weight_names.TIED),
    "heads": [*(part for forms in weight_names.HEADS.values() for form in forms for part in form)],
    "tasks": list(Task),
    "state dicts": list(weights._INSIDE),
    "formats": [*weights.MODEL_FORMATS, *weights.ADAPTER_FORMATS],
    "configurations": [model_folder.CONFIG, model_folder.GLINER_CONFIG],
    "kinds of GLiNER": [*gliner_configuration._OTHER_KINDS, *gliner_configuration._OTHER_PARTS],
    "refused adapters": adapter.REFUSED,
    "activations": list(LABEL_KINDS),
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTED)
def test_every_name_of_a_table_is_on_the_page(kind: str) -> None:
    assert LISTED[kind]
    assert [name for name in LISTED[kind] if name not in PAGE] == []
