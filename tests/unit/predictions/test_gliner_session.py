"""Entities of a session against those that `gliner` gave (tests/golden/make_gliner_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.gliner_models import LABELS, TEXTS, THRESHOLD

from exporter.deberta.checkpoint import open_checkpoint
from exporter.model.task import Task
from exporter.predictions.predicted import SpanPrediction
from exporter.predictions.prediction_options import PredictionOptions
from exporter.predictions.render import render
from exporter.predictions.written import csv_lines, json_line
from exporter.runtime.load import text_encoder
from exporter.runtime.providers.torch_session import TorchSession

GOLDEN = Path(__file__).parents[2] / "golden"
FOUND = json.loads((GOLDEN / "gliner_entities.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def session() -> TorchSession:
    checkpoint = open_checkpoint(GOLDEN / "gliner_model")
    text = text_encoder(GOLDEN / "gliner_model", Task.GLINER, 512, checkpoint.config.gliner)
    return TorchSession(checkpoint, text)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_the_entities_are_those_of_gliner(
    session: TorchSession, nested: bool, several: bool
) -> None:
    options = PredictionOptions(threshold=THRESHOLD, nested=nested, multi_label=several)
    expected = FOUND[f"flat={not nested} several={several}"]
    for text, found, theirs in zip(
        TEXTS, session(TEXTS, options, entities=LABELS), expected, strict=True
    ):
        assert isinstance(found, SpanPrediction)
        assert [(e.start, e.end, e.text, e.label) for e in found.entities] == [
            (e["start"], e["end"], e["text"], e["label"]) for e in theirs
        ], text
        scores = [e["score"] for e in theirs]
        assert [e.score for e in found.entities] == pytest.approx(scores, abs=1e-5)


def test_nested_and_several_labels_find_more() -> None:
    counts = {key: sum(map(len, found)) for key, found in FOUND.items()}
    assert counts["flat=True several=False"] < counts["flat=False several=True"]


def test_as_text_json_and_csv(session: TorchSession) -> None:
    (found,) = session(TEXTS[:1], entities=["city"])
    assert render(found).splitlines()[1].startswith("  city: Berlinton  (21-30) ")
    assert json.loads(json_line(found))["entities"][0]["label"] == "city"
    assert "Berlinton" in "".join(csv_lines([found]))
    (none,) = session(["One"], PredictionOptions(threshold=1.0), entities=["city"])
    assert "no entities" in render(none)
