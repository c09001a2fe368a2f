"""`deb-export run`: answers of every head, standard input, refusals."""

from __future__ import annotations

import csv
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command_line import assert_one_message, call

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]


@pytest.mark.parametrize(
    ("task", "arguments", "expected"),
    [
        ("sequence-classification", ["Good."], "  LABEL_"),
        ("sequence-classification", [""], "  LABEL_"),
        ("sequence-classification", ["a", "b", "--pair", "c", "--pair", "d"], "b | d"),
        ("token-classification", ["Some words"], "0-"),
        ("token-classification", [""], "no tokens"),
        ("question-answering", ["Who?", "--pair", "It was me."], "Who?"),
        ("question-answering", ["Who?", "--pair", ""], "no answer: the context is empty"),
        ("masked-lm", ["A [MASK] day"], "mask 1:"),
        ("masked-lm", ["A day"], "no mask token in the text"),
        ("multiple-choice", ["So", "--pair", "yes", "--pair", "no", "--pair", "x"], "* "),
        ("base", ["A text"], "mean of"),
    ],
)
def test_run_prints_the_answer_of_every_head(
    task: str,
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
) -> None:
    code, out, err = call(capsys, "run", make_artifact(task), *arguments)
    assert (code, err) == (0, "")
    assert expected in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--pair", "b", "--pair", "c"], "1 texts and 2 --pair"),
        (["--pair", "b"], "--pair needs a TEXT"),
        (["a", "--provider", "tpu"], "provider 'tpu': unknown; choose from cpu, cuda"),
        (["a", "--threads", "0"], "threads is 0"),
        (["bad \udcff text"], "surrogate"),
        (["a", "--data", "x.txt"], "TEXT and --data"),
        (["a", "--output", "x.txt"], "its ending says the format: .jsonl, .ndjson, .csv"),
        (["a", "--rerank", "q", "--zero-shot", "x"], "leave one of them out"),
        (["a", "--multi-label"], "are for --zero-shot"),
        (["a", "--zero-shot", "x"], "needs a classifier with the labels entailment"),
        (["a", "--rerank", "q"], "rerank needs a classifier with one label"),
        (["a", "--windows", "sum"], "windows 'sum': unknown; choose from cut, max, mean"),
        (["a", "--top-k", "0"], "top_k is 0; give at least 1"),
        (
            ["a b c " * 99, "--windows", "max", "--stride", "158"],
            "shorten the other text or the stride",
        ),
    ],
)
def test_run_refuses(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
) -> None:
    code, out, err = call(capsys, "run", make_artifact("sequence-classification"), *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert_one_message(err)


def test_run_warns_about_a_text_that_is_cut(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact
) -> None:
    code, out, err = call(capsys, "run", make_artifact("sequence-classification"), "word " * 500)
    assert code == 0
    assert "LABEL_0" in out
    assert err.startswith("warning: text cut to 160 tokens: 'word word")
    assert len(err.splitlines()) == 1


def run_process(
    *arguments: object, stdin: bytes = b"", **options: Any
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )


def test_run_reads_lines_and_writes_json_lines(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("sequence-classification")
    done = run_process(
        "run", folder, "--format", "jsonl", stdin="eins ü\n\nzwei\tdrei\r\n".encode()
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [(item["text"], item["pair"]) for item in found] == [
        ("eins ü", None),
        ("", None),
        ("zwei", "drei"),
    ]
    for item in found:
        assert sum(label["score"] for label in item["labels"]) == pytest.approx(1.0)


def test_a_line_is_answered_while_the_pipe_stays_open(make_artifact: MakeArtifact) -> None:
    command = [sys.executable, "-m", "exporter", "run", str(make_artifact("base"))]
    command += ["--format", "jsonl"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for text in ("first", "second", "third"):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            # Nothing follows: a command that waits for more would never answer.
            assert select.select([process.stdout], [], [], 60)[0], text
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.wait(60) == 0


def test_answers_to_the_lines_before_a_bad_one_are_written(make_artifact: MakeArtifact) -> None:
    stdin = b"one\ntwo\n\xff\nfour\n"
    done = run_process("run", make_artifact("base"), "--format", "csv", stdin=stdin)
    assert done.returncode == 2
    assert b"stdin, line 3: not UTF-8" in done.stderr
    rows = list(csv.DictReader(done.stdout.decode().splitlines()))
    assert [row["text"] for row in rows] == ["one", "two"]


def test_old_spellings_of_run_work_with_a_warning(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    (tmp_path / "texts.txt").write_text("one\n")
    folder = make_artifact("base")
    code, out, err = call(capsys, "run", folder, "--json", f"--input={tmp_path / 'texts.txt'}")
    assert (code, json.loads(out)["text"]) == (0, "one")
    assert [line.partition(" is an old spelling")[0] for line in err.splitlines()] == [
        "warning: run --json",
        "warning: run --input",
    ]
    assert err.splitlines()[1].endswith("gone in the next release; write --data")
    code, out, err = call(capsys, "run", folder, "--", "--json")
    assert (code, err, out.splitlines()[0]) == (0, "", "--json")


def test_run_refuses_binary_input(make_artifact: MakeArtifact) -> None:
    done = run_process("run", make_artifact("base"), stdin=b"good\n\xff\xfe\n")
    assert done.returncode == 2
    assert b"stdin, line 2: not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_closed_pipe_is_quiet(make_artifact: MakeArtifact) -> None:
    command = [sys.executable, "-m", "exporter", "run", str(make_artifact("base"))]
    command += ["--format", "jsonl"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(b"text\n" * 2000, timeout=60)
    assert process.returncode == 141
    assert err == b""


def test_files_in_and_out(make_artifact: MakeArtifact, tmp_path: Path) -> None:
    folder = make_artifact("sequence-classification")
    table = tmp_path / "texts.csv"
    table.write_text('id,text,text_pair\n1,"one, two",\n2,"three\nfour",five\n', encoding="utf-8")
    for name in ("found.jsonl", "found.csv"):
        done = run_process("run", folder, "--data", table, "--output", tmp_path / name)
        assert (done.returncode, done.stdout) == (0, b""), done.stderr
        assert b"2 texts" in done.stderr or b"1 texts" in done.stderr
    lines = (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [(item["text"], item["pair"]) for item in found] == [
        ("one, two", None),
        ("three\nfour", "five"),
    ]
    with (tmp_path / "found.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, item in zip(rows, found, strict=True):
        assert (row["best"], float(row["score"])) == (
            item["labels"][0]["label"],
            item["labels"][0]["score"],
        )
        assert json.loads(row["labels"]) == item["labels"]
        assert (row["text"], row["truncated"]) == (item["text"], "False")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "no column 'text'; its columns are a, b"),
        (b"text\n\xff\n", "not CSV in UTF-8"),
        (b"text,label\none\n", "line 2: not as many cells as columns"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_broken_table_leaves_nothing(
    content: bytes | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    table, output = tmp_path / "texts.csv", tmp_path / "out" / "found.jsonl"
    output.parent.mkdir()
    if content is not None:
        table.write_bytes(content)
    folder = make_artifact("sequence-classification")
    code, out, err = call(capsys, "run", folder, "--data", table, "--output", output)
    assert (code, out) == (2, "")
    assert message in err
    assert list(output.parent.iterdir()) == []


def test_entities_and_options_are_printed(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact
) -> None:
    folder = make_artifact("token-classification")
    code, out, _ = call(
        capsys, "run", folder, "Some words", "--aggregation", "simple", "--format", "jsonl"
    )
    found = json.loads(out)
    assert code == 0
    assert {entity["label"] for entity in found["entities"]} <= {"LABEL_0", "LABEL_1"}
    assert (found["tokens_read"], found["truncated"]) == (found["tokens_total"], False)
    folder = make_artifact("question-answering")
    arguments = ["Who?", "--pair", "It was me.", "--null-answer", "--top-k", "40"]
    code, out, _ = call(capsys, "run", folder, *arguments)
    assert code == 0
    assert "no answer" in out
