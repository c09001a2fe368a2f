"""JSON, table, JUnit XML and Markdown of results that pass and fail."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.parity_results import LAYERS, Arrays, compared, shape_of

from exporter.cli import main
from exporter.errors import InputError
from exporter.model.task import Task
from exporter.parity.limits import chosen_limits
from exporter.parity.report.html import to_html
from exporter.parity.report.json import to_json
from exporter.parity.report.junit import to_junit
from exporter.parity.report.report_files import ReportFiles
from exporter.parity.report.text import to_markdown, to_table
from exporter.parity.result import EngineResult
from exporter.parity.runners import Layers


@pytest.fixture
def wrong(tmp_path: Path):  # type: ignore[no-untyped-def]
    noise = (0.0, 0.0, 0.2, 0.2)
    return compared(tmp_path, Arrays(shape_of(), noise, output_noise=1.5))


@pytest.fixture
def right(tmp_path: Path):  # type: ignore[no-untyped-def]
    return compared(tmp_path)


def test_json_is_strict_and_complete(wrong) -> None:  # type: ignore[no-untyped-def]
    data = json.loads(json.dumps(to_json(wrong), allow_nan=False))
    assert (data["format"], data["schema"], data["passed"]) == ("deb-export-parity", 3, False)
    assert data["first_fault"]["subject"] == "layer 1"
    assert data["first_fault"]["text"]
    assert data["layers"] == {
        "names": ["embeddings", "layer 0", "layer 1", "layer 2"],
        "reason": None,
    }
    first, second = data["data_sets"]
    assert (first["name"], second["name"]) == ("first", "data.tsv")
    assert (first["inputs"], second["inputs"], second["layer_inputs"]) == (4, 12, 12)
    assert set(second["layers"]) == {"embeddings", *(f"layer {i}" for i in range(LAYERS))}
    decisions = second["decisions"]["logits"]
    assert decisions["labelled"] == decisions["decisions"] == 12
    assert 0 < len(decisions["flips"]) <= 12 - decisions["equal"]
    flip = decisions["flips"][0]
    assert {flip["reference"], flip["candidate"]} == {"good", "bad"}
    assert flip["label"] in ("good", "bad")
    assert 0.5 <= flip["reference_score"] <= 1
    assert flip["candidate_score_of_reference"] == pytest.approx(1 - flip["candidate_score"])
    assert data["failures"][0].startswith("first layer outside its limits: layer 1: ")
    origins = {item["metric"]: item["origin"] for item in data["limits"]["metrics"]}
    assert set(origins.values()) == {"built in"}
    assert data["reference"]["files"][0]["sha256"] == "ab" * 32
    assert sum(data["errors"]["logits"]["counts"]) + data["errors"]["logits"]["exact"] == 32


def test_json_of_a_pass(right) -> None:  # type: ignore[no-untyped-def]
    data = to_json(right)
    assert (data["passed"], data["failures"], data["first_fault"]) == (True, [], None)
    assert data["data_sets"][1]["outputs"]["logits"]["max_abs"] == 0.0
    assert data["data_sets"][1]["decisions"]["logits"]["accuracy_drop"] == 0.0
    # Only labelled sets of 100 decisions say something of calibration.
    assert data["data_sets"][1]["decisions"]["logits"]["ece_shift"] is None


def test_the_table_names_what_fails_and_where(wrong, right) -> None:  # type: ignore[no-untyped-def]
    lines = to_table(wrong).splitlines()
    assert lines[-1] == "parity: FAIL"
    rows = {tuple(re.split(r" {2,}", line)[:2]): line for line in lines}
    assert rows["logits", "max_relative"].endswith("FAIL")
    assert rows["layers (worst: layer 1)", "layer_added_relative"].endswith("FAIL")
    assert any(line.startswith("flipped: ") for line in lines)
    assert any("accuracy " in line and "12 labelled" in line for line in lines)
    assert "note: remember this" in lines
    lines = to_table(right).splitlines()
    assert lines[-1] == "parity: pass"
    assert not any("FAIL" in line for line in lines)
    assert "layers: 3 and the embeddings, on 16 inputs" in lines


def test_junit_has_a_case_for_each_output_layer_and_data_set(wrong) -> None:  # type: ignore[no-untyped-def]
    root = ElementTree.fromstring(to_junit(wrong))
    assert root.tag == "testsuites"
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {
        "deb-export parity",
        "deb-export parity: first",
        "deb-export parity: data.tsv",
    }
    cases = {
        case.get("name"): case for case in suites["deb-export parity: data.tsv"].iter("testcase")
    }
    layers = ["embeddings", *(f"layer {index}" for index in range(LAYERS))]
    assert list(cases) == ["logits", "decisions of logits", *layers]
    failing = {name for name, case in cases.items() if case.find("failure") is not None}
    assert failing == {"logits", "decisions of logits", "layer 1", "layer 2"}
    failure = cases["layer 1"].find("failure")
    assert failure is not None
    assert "layer_" in (failure.get("message") or "")
    for suite in root:
        found = list(suite.iter("testcase"))
        assert suite.get("tests") == str(len(found))
        failures = sum(case.find("failure") is not None for case in found)
        assert suite.get("failures") == str(failures)
    assert root.get("tests") == str(len(list(root.iter("testcase"))))
    assert root.get("failures") == str(len(list(root.iter("failure"))))
    classes = {case.get("classname") for case in cases.values()}
    assert "deb-export parity.data_tsv.layers" in classes


def test_junit_follows_its_schema(wrong, right) -> None:  # type: ignore[no-untyped-def]
    """Elements and attributes are those that the schema of the usual viewers allows."""
    allowed = {
        "testsuites": {"name", "time", "tests", "failures", "errors"},
        "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
        "properties": set(),
        "property": {"name", "value"},
        "testcase": {"name", "classname", "time"},
        "failure": {"message", "type"},
        "skipped": {"message"},
        "system-out": set(),
    }
    for result in (wrong, right):
        for element in ElementTree.fromstring(to_junit(result)).iter():
            assert set(element.attrib) <= allowed[element.tag]


def test_layers_that_are_not_available_are_said_everywhere(tmp_path: Path) -> None:
    layers = Layers(reason="nobody knows")
    result = compared(tmp_path, Arrays(shape_of(), layers=layers))
    assert result
    assert to_json(result)["layers"] == {"names": [], "reason": "candidate: nobody knows"}
    assert "layers: not available (candidate: nobody knows)" in to_table(result)
    skipped = next(ElementTree.fromstring(to_junit(result)).iter("skipped"))
    assert skipped.get("message") == "not available: candidate: nobody knows"
    assert "nobody knows" in to_markdown(result) and "nobody knows" in to_html(result)


def test_problems_fail_every_report(tmp_path: Path) -> None:
    result = compared(tmp_path, problems=["model.onnx changed"])
    assert not result
    failure = next(ElementTree.fromstring(to_junit(result)).iter("failure"))
    assert failure.get("message") == "model.onnx changed"
    assert "FAIL model.onnx changed" in to_table(result)
    assert "- model.onnx changed" in to_markdown(result)
    assert "<li>model.onnx changed</li>" in to_html(result)


def test_the_export_and_the_engines_are_in_every_report(tmp_path: Path) -> None:
    own = compared(tmp_path / "right")
    export = compared(tmp_path / "wrong", Arrays(shape_of(), output_noise=0.5))
    engines = (EngineResult("a.plan", own), EngineResult("b.plan", None, "no GPU"))
    result = replace(own, export=export, engines=engines)
    assert own and not result and replace(own, engines=engines)
    lines = (
        "export in fp32: FAIL, arrays, ",
        "engine a.plan: pass, arrays, ",
        "engine b.plan: not judged: no GPU",
    )
    for make in (to_table, to_markdown, to_html):
        assert all(line in make(result) for line in lines)
    cases = {item.get("name"): item for item in ElementTree.fromstring(to_junit(result)).iter()}
    assert cases["export in fp32"].find("failure") is not None
    assert list(cases["a.plan"]) == []
    skipped = cases["b.plan"].find("skipped")
    assert skipped is not None and skipped.get("message") == "not judged: no GPU"
    data = to_json(result)
    assert [item["status"] for item in data["engines"]] == ["passed", "not judged"]
    assert (data["passed"], data["export"]["passed"]) == (False, False)
    assert result.failures == tuple(f"export in fp32: {line}" for line in export.failures)


def test_nan_fails_and_is_null(tmp_path: Path) -> None:
    result = compared(tmp_path, Arrays(shape_of(), nan=True))
    assert not result
    data = json.loads(json.dumps(to_json(result), allow_nan=False))
    failed = {check["metric"] for check in data["checks"] if not check["passed"]}
    assert failed == {"non_finite"}
    for make in (to_table, to_junit, to_markdown, to_html):
        assert make(result)


def test_markdown_escapes_texts(wrong) -> None:  # type: ignore[no-untyped-def]
    text = to_markdown(wrong)
    assert text.startswith("## Parity: **FAIL**")
    assert "**First layer outside its limits: layer 1**" in text
    assert "<b>" not in text
    assert "Not | good" not in text
    widths = [line.count("|") - line.count("\\|") for line in text.splitlines() if line[:1] == "|"]
    assert len(set(widths)) <= 3
    assert "| data\\.tsv |" not in text and "| data.tsv |" in text


def test_html_escapes_texts_and_has_no_address(wrong) -> None:  # type: ignore[no-untyped-def]
    page = to_html(wrong)
    assert "&lt;b&gt;bold" in page and "<b>bold" not in page
    assert "models/&lt;wrong&gt;" in page
    assert not re.findall(r"(?:src|href)\s*=\s*[\"'](?!data:,)", page)
    assert "http" not in re.sub(r"<style>.*?</style>|http-equiv", "", page, flags=re.DOTALL)
    assert "<script" not in page and "url(" not in page and "@import" not in page


@pytest.mark.parametrize("task", [Task.BASE, Task.TOKEN_CLASSIFICATION, Task.QUESTION_ANSWERING])
def test_reports_of_other_heads(task: Task, tmp_path: Path) -> None:
    shape = shape_of(task)
    noisy = Arrays(shape, output_noise=0.5)
    result = compared(tmp_path, noisy, shape=shape, labelled=False)
    for make in (to_table, to_junit, to_markdown, to_html):
        assert make(result)
    json.dumps(to_json(result), allow_nan=False)
    flips = [
        f for s in to_json(result)["data_sets"] for d in s["decisions"].values() for f in d["flips"]
    ]
    assert bool(flips) == (task is not Task.BASE)
    if task is Task.TOKEN_CLASSIFICATION:
        assert all(flip["token"] is not None for flip in flips)


def test_limits_of_ones_own_stand_in_the_reports_with_their_origin(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[limits]\nagreement = {bound = 0.5, reason = "half is enough"}\n')
    limits = chosen_limits("fp32", file, ("max_relative=7",))
    result = compared(tmp_path / "store", limits=limits)
    metrics = {item["metric"]: item for item in to_json(result)["limits"]["metrics"]}
    assert metrics["agreement"]["origin"] == "own.toml"
    assert metrics["agreement"]["reason"] == "half is enough"
    assert metrics["max_relative"]["origin"] == "command line"
    assert "some from own.toml and command line" in to_table(result) or (
        "some from command line and own.toml" in to_table(result)
    )
    assert "half is enough (own.toml)" in to_html(result)


def test_reports_are_whole_or_not_there(right, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "reports"
    folder.mkdir()
    names = {name: folder / name for name in ("json", "junit", "markdown", "html")}
    reports = ReportFiles(**names)
    reports.check()
    reports.write(right)
    assert {path.name for path in folder.iterdir()} == set(names)
    assert json.loads(names["json"].read_text())["passed"] is True
    before = names["json"].read_bytes()
    with pytest.raises(InputError, match="cannot be written"):
        ReportFiles(json=folder / "gone" / "x").write(right)
    assert names["json"].read_bytes() == before
    with pytest.raises(InputError, match=r"--junit .*--json goes there as well"):
        ReportFiles(json=folder / "a", junit=folder / "a").check()
    with pytest.raises(InputError, match="is a folder"):
        ReportFiles(html=folder).check()
    with pytest.raises(InputError, match="there is no folder"):
        ReportFiles(html=folder / "gone" / "x").check()


@pytest.mark.parametrize("option", ["--json", "--junit", "--markdown", "--html", "--save-inputs"])
def test_a_path_that_cannot_be_written_is_refused_before_any_work(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The artifact does not exist, which would be said first if any work were done.
    assert main(["parity", "/no/such", option, str(tmp_path / "gone" / "file")]) == 2
    assert f"{option} {tmp_path}/gone/file: there is no folder" in capsys.readouterr().err
