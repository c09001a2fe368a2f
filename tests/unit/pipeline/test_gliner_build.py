"""A tiny trained GLiNER through a build: its entities, in fp32 and int8, and what is said."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from exporter.artifact.manifest import read_manifest
from exporter.errors import InputError
from exporter.packaging.hub import package_hub
from exporter.packaging.triton import package_triton
from exporter.pipeline.build_artifact import build_and_judge
from exporter.pipeline.config import BuildConfig
from exporter.predictions.predicted import SpanPrediction
from exporter.predictions.prediction_options import PredictionOptions
from exporter.runtime.load import load
from tools.gliner_training.sentences import LABELS, sentence

FOLDER = Path(__file__).parents[2] / "golden" / "gliner_model"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "texts.jsonl"
    rng = random.Random(7)
    lines = ({"text": sentence(rng).text, "choices": list(LABELS)} for _ in range(80))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def artifact(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact") / "int8"
    manifest, result = build_and_judge(
        BuildConfig(
            model=FOLDER,
            output=folder,
            precision="int8",
            data=data,
            calibration_data=data,
            targets=("onnx",),
        )
    )
    assert manifest.passed, result.failures
    answers = result.data_sets[-1].answers
    assert answers is not None
    scores = answers.scores(0.0)
    assert scores["entity_precision"] == scores["entity_recall"] == 1.0
    return folder


def test_entities_of_new_sentences(artifact: Path) -> None:
    rng = random.Random(123)
    given = [sentence(rng) for _ in range(50)]
    with load(artifact) as session:
        found = session([item.text for item in given], entities=LABELS)
    right = 0
    for item, prediction in zip(given, found, strict=True):
        assert isinstance(prediction, SpanPrediction) and not prediction.truncated
        for entity in prediction.entities:
            assert item.text[entity.start : entity.end] == entity.text
        right += {(e.start, e.end, e.label) for e in prediction.entities} == set(item.entities)
    assert right >= 49


def test_a_long_text_is_read_in_windows_and_nothing_is_lost(artifact: Path) -> None:
    rng = random.Random(5)
    parts = [sentence(rng) for _ in range(30)]
    text, expected = "", []
    for part in parts:
        expected += [(len(text) + s, len(text) + e, label) for s, e, label in part.entities]
        text += part.text + " "
    with load(artifact) as session:
        (found,) = session([text], entities=LABELS)
        (alone,) = session(["Anna Gollin moved to Berlinton in May."], entities=["person", "city"])
        with pytest.raises(InputError, match="no labels to find"):
            session([text])
        assert session(["", "\x00"], entities=LABELS)[1].entities == ()
    assert isinstance(found, SpanPrediction) and isinstance(alone, SpanPrediction)
    assert found.tokens_read == found.tokens_total and not found.truncated
    mine = {(e.start, e.end, e.label) for e in found.entities}
    assert len(mine & set(expected)) >= 0.95 * len(expected)
    assert [e.label for e in alone.entities][:2] == ["person", "city"]


def test_a_threshold_of_one_finds_nothing(artifact: Path) -> None:
    with load(artifact) as session:
        options = PredictionOptions(threshold=1.0)
        (found,) = session(["Anna Gollin met Paul."], options, entities=["person"])
    assert isinstance(found, SpanPrediction) and found.entities == ()


def test_packages_of_other_clients_are_refused(artifact: Path, tmp_path: Path) -> None:
    manifest = read_manifest(artifact)
    with pytest.raises(InputError, match="gliner loads as it is"):
        package_hub([(artifact, manifest)], tmp_path / "hub")
    with pytest.raises(InputError, match="follow from its words"):
        package_triton(artifact, manifest, (), tmp_path / "triton")
    assert not list(tmp_path.iterdir())


def test_engines_are_refused_by_name(tmp_path: Path) -> None:
    config = BuildConfig(model=FOLDER, output=tmp_path / "out", targets=("onnx", "tensorrt-rtx"))
    with pytest.raises(InputError, match="as many scores as its ids have labels"):
        build_and_judge(config)


def test_a_missing_tokenizer_is_an_error(tmp_path: Path) -> None:
    for name in ("gliner_config.json", "model.safetensors"):
        shutil.copy(FOLDER / name, tmp_path)
    config = BuildConfig(model=tmp_path, output=tmp_path / "out", targets=("onnx",))
    with pytest.raises(InputError, match="no tokenizer; a GLiNER model"):
        build_and_judge(config)
