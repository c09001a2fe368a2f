"""`deb-export score`: rows of every format, whole, in order, with answers or reasons."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_line import assert_one_message, call
from support.score_runs import rows_of_run

from exporter.errors import RunError
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.runtime.load import load
from exporter.runtime.session import Session

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]
TEXTS = ["Good.", "Not so good, and too long for what it is.", "Größe 👍", "", "a, b", "a\nb"]


def expected(folder: Path, texts: list[Any]) -> list[tuple[str, float]]:
    with load(folder) as session:
        return [(p.labels[0].label, p.labels[0].score) for p in session(texts)]  # type: ignore[union-attr]


def best(rows: list[dict[str, Any]], prefix: str = "prediction_") -> list[tuple[str, Any]]:
    return [(row[f"{prefix}best"], pytest.approx(float(row[f"{prefix}score"]))) for row in rows]


def write_csv(path: Path, rows: list[list[object]]) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize("size", [1, 4, 100])
def test_csv_in_csv_out(
    size: int, capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    source = write_csv(
        tmp_path / "in.csv",
        [["id", "review", "other"], *([i, text, "x"] for i, text in enumerate(TEXTS)), [9, "lone"]],
    )
    options = ["--text-column", "review", "--shard-rows", size, "--output", output]
    code, out, _ = call(capsys, "score", folder, source, *options)
    assert code == 0
    assert f"{output}: 7 rows in {-(-7 // size)} shards, 7 scored at " in out
    assert "; 1 without an answer, see prediction_error" in out
    rows = rows_of_run(output)
    assert [row["id"] for row in rows] == ["0", "1", "2", "3", "4", "5", "9"]
    assert [row["review"] for row in rows[:-1]] == TEXTS
    assert expected(folder, TEXTS) == best(rows[:-1])
    assert rows[-1]["prediction_error"] == "not as many cells as columns: 2 for 3"
    assert (rows[-1]["review"], rows[-1]["prediction_best"]) == ("lone", "")
    run = json.loads((output / "score.json").read_text())
    assert run["finished"] == {"shards": -(-7 // size), "rows": 7, "failed": 1}


def test_several_files_of_lines(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    lines = [
        b'{"id": 1, "text": "Good.", "extra": {"a": [1, null]}}',
        b'{"id": 2, "text": "\\ud800"}',
        b'{"id": 3}',
        b"",
        b"{no",
        b'{"text": "bad \xff byte"}',
        b'"a string"',
        b'{"text": "one", "text_pair": "two"}',
        b'{"text": "one", "choices": ["x", "y"]}',
        b"[1]",
    ]
    (tmp_path / "b.jsonl").write_bytes(b"\n".join(lines))
    (tmp_path / "a.txt").write_bytes("\ufeffplain\r\n\nwith\ttab\n\tnone\nnul\0\n".encode())
    inputs = [tmp_path / "b.jsonl", tmp_path / "a.txt"]
    options = ["--prefix", "p_", "--shard-rows", "2", "--output", output]
    code, out, _ = call(capsys, "score", folder, *inputs, *options)
    assert (code, "14 rows in 8 shards" in out, "; 8 without" in out) == (0, True, True)
    rows = rows_of_run(output)
    reasons = [row["p_error"] for row in rows]
    assert rows[0]["extra"] == {"a": [1, None]}
    assert [row.get("id") for row in rows[:3]] == [1, 2, 3]
    assert [reason and reason.split(" (")[0][:40] for reason in reasons] == [
        None,
        "text has a lone surrogate",
        '"text" is None; expected a text',
        "not JSON",
        "not UTF-8",
        None,
        None,
        "'one': sequence-classification takes at most two texts"[:40],
        "expected a JSON string or an object",
        None,
        None,
        None,
        "no text before the tab",
        "binary data; give UTF-8 text",
    ]
    texts = [rows[i]["text"] for i in (5, 9, 10, 11)]
    assert texts == ["a string", "plain", "", "with"]
    assert (rows[4]["text"], rows[11]["text_pair"]) == ('{"text": "bad \\xff byte"}', "tab")
    good: list[Any] = ["Good.", "a string", ("one", "two"), "plain", "", ("with", "tab")]
    assert expected(folder, good) == best([rows[i] for i in (0, 5, 6, 9, 10, 11)], "p_")


@pytest.mark.parametrize(
    "task", ["token-classification", "question-answering", "multiple-choice", "masked-lm", "base"]
)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_every_head(
    task: str,
    form: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    row: dict[str, Any] = {"id": 1, "text": "Who said [MASK]?"}
    if task == "question-answering":
        row["text_pair"] = "It was me."
    if task == "multiple-choice":
        row["choices"] = ["me", "you", "they"]
    source = tmp_path / f"in.{form}"
    if form == "parquet":
        pyarrow, parquet = (pytest.importorskip(n) for n in ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(pyarrow.Table.from_pylist([row, {**row, "text": None}]), source)
    else:
        source.write_text(json.dumps(row) + "\n" + json.dumps({**row, "text": None}) + "\n")
    folder = make_artifact(task)
    code, _, err = call(capsys, "score", folder, source, "--output", tmp_path / "out")
    assert code == 0, err
    first, second = rows_of_run(tmp_path / "out")
    assert {name: first[name] for name in row} == row
    assert list(first) == list(second)
    assert (first["prediction_error"], first["prediction_truncated"]) == (None, False)
    assert second["prediction_error"] == '"text" is None; expected a text'
    code, out, _ = call(
        capsys,
        *("run", folder, row["text"], "--format", "jsonl"),
        *(word for text in row.get("choices", []) for word in ("--pair", text)),
        *(("--pair", row["text_pair"]) if "text_pair" in row else ()),
    )
    for name, value in json.loads(out).items():
        if name not in ("text", "pair", "question", "context"):
            assert first[f"prediction_{name}"] == value


def test_parquet_keeps_its_types_and_is_read_across_row_groups(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    pa, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    texts = [f"text {i}" for i in range(23)]
    table = pa.table(
        {
            "when": pa.array(range(23), pa.timestamp("ms")),
            "text": pa.array(texts, pa.large_string()),
            "tags": pa.array([["a"] * (i % 3) for i in range(23)]),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet", row_group_size=5)
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    options = ["--shard-rows", "7", "--output", output]
    assert call(capsys, "score", folder, tmp_path / "in.parquet", *options)[0] == 0
    found = pa.concat_tables(parquet.read_table(path) for path in sorted(output.glob("part-*")))
    assert found.select(table.column_names).cast(table.schema) == table
    assert str(found.schema.field("prediction_score").type) == "double"
    assert expected(folder, texts) == best(found.to_pylist())
    for form in ("csv", "jsonl"):
        options = ["--format", form, "--output", tmp_path / form]
        assert call(capsys, "score", folder, tmp_path / "in.parquet", *options)[0] == 0
        assert [row["text"] for row in rows_of_run(tmp_path / form)] == texts


def test_csv_to_parquet(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    source = tmp_path / "in.csv"
    source.write_bytes(b"id,text\n1,one\n2,t\xffwo\n3\n")
    options = ["--format", "parquet", "--output", tmp_path / "out"]
    code, *_ = call(capsys, "score", make_artifact("base"), source, *options)
    rows = rows_of_run(tmp_path / "out")
    assert (code, [row["id"] for row in rows]) == (0, ["1", "2", "3"])
    assert [row["text"] for row in rows] == ["one", "t\\udcffwo", None]
    assert [row["prediction_error"] is None for row in rows] == [True, False, False]
    assert len(rows[0]["prediction_vector"]) == 24


def test_a_row_that_the_runtime_fails_on_fails_alone(
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from exporter.runtime.providers.onnx_session import OnnxSession

    execute = OnnxSession._execute

    def fail_on_four_tokens(self: Session, feeds: Any) -> Any:
        if (feeds["attention_mask"].sum(axis=-1) == 4).any():
            raise RunError(tmp_path, "no memory")
        return execute(self, feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(OnnxSession, "_execute", fail_on_four_tokens)
    (tmp_path / "in.txt").write_text("the\nof a\nof the a\n")
    folder = make_artifact("base")
    with load(folder) as session:
        assert session.text is not None
        lengths = [session.text.encode(text).length for text in ("the", "of a", "of the a")]
    code, *_ = call(capsys, "score", folder, tmp_path / "in.txt", "--output", tmp_path / "out")
    rows = rows_of_run(tmp_path / "out")
    assert 4 in lengths and code == 0
    for row, length in zip(rows, lengths, strict=True):
        assert ("no memory" in (row["prediction_error"] or "")) == (length == 4)


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("in.csv", "a,b\n1,2\n", [], "no column 'text'; its columns are a, b"),
        ("in.csv", "text,text\n1,2\n", [], "two columns 'text'; rename one"),
        ("in.csv", 'text\n"open\n', [], "not CSV in UTF-8 (unexpected end of data)"),
        ("in.csv", "text,prediction_best\na,b\n", [], "has a column 'prediction_best'; choose"),
        ("in.jsonl", '{"text": "a", "p_score": 1}\n', ["--prefix", "p_"], "column 'p_score'"),
        ("in.txt", "a\n", ["--format", "csv"], "rows of text have no fixed columns"),
        ("in.txt", "a\n", ["--format", "xml"], "--format 'xml': unknown; choose from jsonl"),
        ("in.txt", "a\n", ["--shard-rows", "0"], "--shard-rows 0: give at least 1"),
        ("in.txt", "a\n", ["--replicas", "2"], "--replicas: one process has one; add --ray"),
        ("in.txt", "a\n", ["--provider", "tpu"], "--provider 'tpu': unknown"),
        ("in.txt", "a\n", ["--pair-column", "text"], "two of the columns of texts have one name"),
        ("in.txt", None, [], "in.txt: cannot be read (No such file"),
    ],
)
def test_refusals_leave_nothing(
    name: str,
    content: str | None,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    code, out, err = call(capsys, "score", folder, tmp_path / name, "--output", output, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert_one_message(err)
    assert not output.exists()


def test_no_row_with_an_answer_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"review": "a"}\n{"review": "b"}\n')
    folder = make_artifact("base")
    code, *_ = call(capsys, "score", folder, tmp_path / "in.jsonl", "--output", tmp_path / "out")
    assert code == 1
    assert len(rows_of_run(tmp_path / "out")) == 2
    (tmp_path / "empty.txt").write_text("")
    code, out, _ = call(capsys, "score", folder, tmp_path / "empty.txt", "--output", tmp_path / "e")
    assert (code, "0 rows in 0 shards" in out) == (0, True)


def test_long_rows_and_a_text_of_a_million_characters(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    long = "word " * 200_000
    source = write_csv(tmp_path / "in.csv", [["text"], ["short"], [long]])
    folder = make_artifact("sequence-classification")
    code, _, err = call(capsys, "score", folder, source, "--output", tmp_path / "out")
    assert (code, "text cut" in err) == (0, False)
    with (tmp_path / "out" / "part-000000.csv").open(newline="") as file:
        csv.field_size_limit(1 << 24)
        first, second = csv.DictReader(file)
    assert (first["prediction_truncated"], second["prediction_truncated"]) == ("False", "True")
    assert second["text"] == long


def test_entities_of_labels_that_are_asked_for(
    capsys: pytest.CaptureFixture[str], texts_file: Path, tmp_path: Path
) -> None:
    model, folder = Path(__file__).parents[2] / "golden" / "gliner_model", tmp_path / "artifact"
    config = BuildConfig(model=model, output=folder, data=texts_file, targets=("onnx",))
    assert build(config).passed
    source = tmp_path / "in.jsonl"
    lines = [{"text": "Ada in Paris"}, {"text": "Ada in Paris", "choices": ["person", "place"]}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = ["score", folder, source, "--threshold", "0.01", "--output"]
    assert call(capsys, *common, tmp_path / "a", "--entities", "person, place")[0] == 0
    assert call(capsys, *common, tmp_path / "b")[0] == 0
    asked, own = rows_of_run(tmp_path / "a"), rows_of_run(tmp_path / "b")
    assert "has labels of its own; leave the entities out" in asked[1]["prediction_error"]
    assert "no labels to find; give entities" in own[0]["prediction_error"]
    assert asked[0]["prediction_asked"] == own[1]["prediction_asked"] == ["person", "place"]
    assert asked[0]["prediction_entities"] == own[1]["prediction_entities"] != []
    code, _, err = call(capsys, *common, tmp_path / "c", "--entities", "person,person")
    assert (code, "label 'person' is given twice" in err) == (2, True)
    assert not (tmp_path / "c").exists()
