"""Checkpoints that several tests use, each made once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint

MakeCheckpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Makes a checkpoint folder; a call with the same arguments gives the same folder."""
    made: dict[str, Path] = {}

    def make(task: str = "sequence-classification", **changes: Any) -> Path:
        key = json.dumps([task, changes], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp("checkpoint") / task
            made[key] = write_checkpoint(folder, task, **changes)
        return made[key]

    return make
