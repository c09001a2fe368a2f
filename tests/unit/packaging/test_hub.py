"""Hub folders: names that clients look for, figures of the card, and what is refused.

Clients themselves: `python -m tools.hub_clients`, see docs/verification.md.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import yaml

from exporter.artifact.files import record
from exporter.artifact.manifest import Manifest, read_manifest
from exporter.cli import main
from exporter.errors import InputError
from exporter.model.task import ARCHITECTURES, Task
from exporter.packaging.hub import package_hub
from exporter.packaging.load_examples import load_examples
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
PRECISIONS = ("fp32", "fp16")


@pytest.fixture(scope="module")
def artifacts(
    make_checkpoint: MakeCheckpoint, texts_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """An artifact, and one that says it is fp16, with its weights beside it. Tests must not change
    them."""
    folder = tmp_path_factory.mktemp("precisions")
    model = make_checkpoint(
        "sequence-classification", num_hidden_layers=1, _name_or_path="/home/somebody/model"
    )
    config = BuildConfig(model, folder / "fp32", data=texts_file, targets=("onnx",))
    assert build(config).passed
    other = Path(shutil.copytree(folder / "fp32", folder / "fp16"))
    graph = onnx.load(other / "model.onnx")
    onnx.save_model(
        graph, other / "model.onnx", save_as_external_data=True, location="model.onnx.data"
    )
    changed(other, precision="fp16")
    return {"fp32": folder / "fp32", "fp16": other}


def changed(folder: Path, **fields: Any) -> Path:
    """The artifact in `folder`, whose manifest is made to say what is there, and `fields`."""
    data = json.loads((folder / "manifest.json").read_text())
    files = [path for path in sorted(folder.iterdir()) if path.name != "manifest.json"]
    data |= {"files": [asdict(record(path)) for path in files], **fields}
    (folder / "manifest.json").write_text(json.dumps(data))
    return folder


@pytest.fixture(scope="module")
def hub(artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both."""
    folder = tmp_path_factory.mktemp("place") / "made" / "hub"
    arguments = [str(path) for path in artifacts.values()]
    assert main(["package", *arguments, "--hub", str(folder)]) == 0
    return folder


def with_manifests(*folders: Path) -> list[tuple[Path, Manifest]]:
    return [(folder, read_manifest(folder)) for folder in folders]


def test_names_and_outputs_are_what_clients_look_for(hub: Path, artifacts: dict[str, Path]) -> None:
    files = {str(path.relative_to(hub)) for path in hub.rglob("*") if path.is_file()}
    assert files >= {
        "README.md", "config.json", "tokenizer_config.json", "onnx/model.onnx",
        "onnx/model_fp16.onnx", "onnx/model_fp16.onnx_data",
    }  # fmt: skip
    assert not any("manifest" in name or "parity" in name for name in files)
    ids = np.array([[1, 7, 9, 2]])
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    for precision, name in zip(PRECISIONS, ("model.onnx", "model_fp16.onnx"), strict=True):
        paths = (hub / "onnx" / name, artifacts[precision] / "model.onnx")
        first, second = (onnxruntime.InferenceSession(path).run(None, feeds)[0] for path in paths)
        assert np.array_equal(first, second)


def test_the_configuration_is_for_clients(hub: Path) -> None:
    config = json.loads((hub / "config.json").read_text())
    assert config["architectures"] == ["DebertaV2ForSequenceClassification"]
    external = config["transformers.js_config"]["use_external_data_format"]
    assert external == {"model_fp16.onnx": 1}
    assert "_name_or_path" not in config


def test_the_card_has_the_figures_of_the_checks(hub: Path, artifacts: dict[str, Path]) -> None:
    card = (hub / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["pipeline_tag"] == "text-classification" and "onnx" in head["tags"]
    rows = [line.split(" | ") for line in card.splitlines() if line.startswith("| `onnx/")]
    assert [row[1] for row in rows] == list(PRECISIONS)
    for row, folder in zip(rows, artifacts.values(), strict=True):
        report = json.loads((folder / "parity.json").read_text())
        worst = max(item["outputs"]["logits"]["max_relative"] for item in report["data_sets"])
        assert row[4] == f"{worst:.3g}"
        decided = [item["decisions"]["logits"] for item in report["data_sets"]]
        equal = sum(item["equal"] for item in decided)
        assert row[6] == f"{equal} of {sum(item['decisions'] for item in decided)}"
    for name in ("max_relative", "agreement", "layer_max_relative"):
        assert card.count(f"| {name} |") == 2
    assert "somebody" not in card and str(artifacts["fp32"].parent) not in card


def test_an_artifact_outside_its_limits_says_so(artifacts: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifacts["fp32"], tmp_path / "a"))
    manifest = read_manifest(folder)
    report = json.loads((folder / "parity.json").read_text())
    report |= {"passed": False, "failures": ["logits: far off, text 'a secret'"]}
    report["checks"][1] |= {"passed": False, "value": 0.5}
    (folder / "parity.json").write_text(json.dumps(report))
    kept = tuple(item for item in manifest.files if item.path != "parity.json")
    package_hub([(folder, replace(manifest, files=kept))], tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "**outside its limits**" in card and "**0.5**" in card and "a secret" not in card


@pytest.mark.parametrize("task", list(ARCHITECTURES.values()))
@pytest.mark.parametrize("types", [False, True])
def test_examples_of_every_head_are_whole(
    task: Task, types: bool, artifacts: dict[str, Path]
) -> None:
    inputs = ("input_ids", "attention_mask", *(["token_type_ids"] if types else []))
    manifest = read_manifest(artifacts["fp32"])
    manifest = replace(manifest, task=task.value, inputs=inputs, labels={0: "relevance"})
    text = load_examples("some-name", manifest, "onnx/model.onnx")
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    languages = [language for language, _ in blocks]
    assert ("js" in languages) == (task is not Task.MULTIPLE_CHOICE)
    assert languages.count("python") == 1 + (task is Task.SEQUENCE_CLASSIFICATION)
    for language, code in blocks:
        assert "$" not in code
        if language == "python":
            ast.parse(code)
        if language == "cpp":
            assert code.count("{") == code.count("}")
            assert f"{len(inputs)}> inputs" in code and ("zeros" in code) == types


def refused(*folders: Path, target: Path) -> str:
    with pytest.raises(InputError) as caught:
        package_hub(with_manifests(*folders), target)
    assert not target.exists() and not list(target.parent.glob(".hub-*"))
    return str(caught.value)


def test_what_is_not_of_one_checkpoint_is_refused(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    first, target = artifacts["fp32"], tmp_path / "hub"
    assert "both are fp32" in refused(first, first, target=target)
    head = Path(shutil.copytree(artifacts["fp16"], tmp_path / "head"))
    assert "what gliner loads" in refused(changed(head, task="gliner"), target=target)
    assert "another head" in refused(first, changed(head, task="base"), target=target)
    source = json.loads((first / "manifest.json").read_text())["source"]
    source["files"][-1]["sha256"] = "0" * 64
    other = Path(shutil.copytree(artifacts["fp16"], tmp_path / "other"))
    assert "another checkpoint file" in refused(first, changed(other, source=source), target=target)
    longer = Path(shutil.copytree(artifacts["fp16"], tmp_path / "longer"))
    (longer / "tokenizer_config.json").write_text("{}")
    assert "tokenizer (--seq)" in refused(first, changed(longer), target=target)


def test_what_cannot_be_written_leaves_nothing(
    artifacts: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    first = artifacts["fp32"]
    (tmp_path / "there").mkdir()
    assert main(["package", str(first), "--hub", str(tmp_path / "there")]) == 2
    assert "exists; choose another" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["package", str(first), "--hub", str(tmp_path / "file" / "hub")]) == 2
    assert "a part of the path is a file" in capsys.readouterr().err

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        assert "the disk is full" in refused(first, target=tmp_path / "hub")
    broken = Path(shutil.copytree(first, tmp_path / "broken"))
    (broken / "model.onnx").write_bytes(b"")
    assert "model.onnx changed" in refused(broken, target=tmp_path / "hub")
    assert main(["package", str(first), str(first), "--plain", str(tmp_path / "x.onnx")]) == 2
    assert "take one" in capsys.readouterr().err
