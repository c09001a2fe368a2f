"""`deb-export parity ARTIFACT`: what it prints, and what an artifact is refused for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import assert_one_message, call

from exporter.parity.report.json import FORMAT

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]


@pytest.fixture
def copy(make_artifact: MakeArtifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_artifact("sequence-classification"), tmp_path / "copy"))


def test_parity_passes_on_an_untouched_artifact(
    capsys: pytest.CaptureFixture[str], copy: Path, tmp_path: Path, texts_file: Path
) -> None:
    report = tmp_path / "report.json"
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file, "--json", report)
    assert code == 0
    assert out.splitlines()[-1] == "parity: pass"
    data = json.loads(report.read_text())
    assert (data["format"], data["passed"]) == (FORMAT, True)
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file, "--json", "-")
    assert code == 0
    assert json.loads(out)["passed"] is True


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(bytes(content))


def test_parity_fails_on_a_changed_weight(
    capsys: pytest.CaptureFixture[str], copy: Path, texts_file: Path
) -> None:
    graph = copy / "model.onnx"
    content = graph.read_bytes()
    # A byte that ends up in a float: the file still loads, and the models are compared.
    flip(graph, len(content) // 2)
    code, out, err = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 1
    assert "FAIL model.onnx changed: SHA-256" in out
    assert out.splitlines()[-1] == "parity: FAIL"
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["model.onnx", "config.json", "spm.model"])
def test_parity_fails_on_a_file_that_is_gone_or_cut(
    capsys: pytest.CaptureFixture[str], copy: Path, texts_file: Path, name: str
) -> None:
    path = copy / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 1
    assert f"FAIL {name} changed" in out
    path.unlink()
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 1
    assert f"FAIL {name} missing" in out


def test_parity_refuses_another_checkpoint(
    capsys: pytest.CaptureFixture[str],
    copy: Path,
    texts_file: Path,
    make_checkpoint: Callable[..., Path],
) -> None:
    other = make_checkpoint("sequence-classification", seed=8)
    code, _, err = call(capsys, "parity", copy, "--data", texts_file, "--checkpoint", other)
    assert code == 2
    assert "not the checkpoint that the artifact was built from: model.safetensors changed" in err
    assert_one_message(err)


def test_parity_finds_a_checkpoint_that_has_moved(
    capsys: pytest.CaptureFixture[str],
    copy: Path,
    texts_file: Path,
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    moved = shutil.copytree(make_checkpoint("sequence-classification"), tmp_path / "moved")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["source"]["folder"] = "/gone"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, _, err = call(capsys, "parity", copy, "--data", texts_file)
    assert code == 2
    assert "/gone: the source checkpoint is gone; name its folder: --checkpoint" in err
    code, out, _ = call(capsys, "parity", copy, "--data", texts_file, "--checkpoint", moved)
    assert (code, out.splitlines()[-1]) == (0, "parity: pass")


def test_parity_says_when_the_report_cannot_be_written(
    capsys: pytest.CaptureFixture[str], copy: Path, texts_file: Path
) -> None:
    code, _, err = call(capsys, "parity", copy, "--data", texts_file, "--json", "/no/such/x.json")
    assert code == 2
    assert "/no/such/x.json: there is no folder /no/such" in err
