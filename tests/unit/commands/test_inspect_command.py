"""`deb-export inspect`: artifacts and graphs, whole and not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import assert_one_message, call

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]


@pytest.fixture
def copy(make_artifact: MakeArtifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_artifact("sequence-classification"), tmp_path / "copy"))


def test_inspect_describes_an_artifact_and_a_graph(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact
) -> None:
    folder = make_artifact("question-answering")
    code, out, _ = call(capsys, "inspect", folder)
    assert code == 0
    for expected in ("question-answering, fp32", "parity     pass", "start_logits  FLOAT"):
        assert expected in out
    assert "attention  2 nodes for 2 layers" in out
    assert "function   deb_export::DisentangledAttention" in out
    code, out, _ = call(capsys, "inspect", folder / "model.onnx", "--json", "-")
    graph = json.loads(out)
    assert code == 0
    assert graph["attention_nodes"] == graph["layers"] == 2
    assert graph["operators"]["deb_export::DisentangledAttention"] == 2
    assert graph["inputs"][0]["shape"] == ["batch", "sequence"]
    code, out, _ = call(capsys, "inspect", folder, "--json", "-")
    assert json.loads(out)["manifest"]["task"] == "question-answering"


def test_inspect_says_what_has_changed(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    (copy / "model.onnx").write_bytes(b"short")
    code, out, _ = call(capsys, "inspect", copy)
    assert code == 1
    assert "CHANGED    model.onnx changed: 5 bytes" in out


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"text, not a graph"])
def test_inspect_refuses_what_is_no_graph(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    code, _, err = call(capsys, "inspect", tmp_path / "x.onnx")
    assert code == 2
    assert "not an ONNX file" in err
    assert_one_message(err)


@pytest.mark.parametrize("order", ["flag last", "flag first"])
def test_json_without_a_file_works_with_a_warning(
    order: str, capsys: pytest.CaptureFixture[str], make_artifact: Callable[[str], Path]
) -> None:
    words: list[object] = [make_artifact("base") / "model.onnx", "--json"]
    code, out, err = call(capsys, "inspect", *(words if order == "flag last" else words[::-1]))
    assert (code, json.loads(out)["attention_nodes"]) == (0, 2)
    assert err == (
        "warning: inspect --json without a file is an old spelling, gone in the next release; "
        "write --json -\n"
    )


def test_json_to_a_file(
    capsys: pytest.CaptureFixture[str], make_artifact: Callable[[str], Path], tmp_path: Path
) -> None:
    graph, file = make_artifact("base") / "model.onnx", tmp_path / "graph.json"
    code, out, err = call(capsys, "inspect", graph, "--json", file)
    assert (code, err) == (0, "")
    assert out.startswith("graph ")
    assert json.loads(file.read_text())["attention_nodes"] == 2
    code, _, err = call(capsys, "inspect", "--json")
    assert (code, "Missing argument 'PATH'" in err) == (2, True)
