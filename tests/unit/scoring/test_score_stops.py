"""Runs of `deb-export score` that are stopped or damaged: nothing is lost, nothing doubled."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command_line import assert_one_message, call
from support.score_runs import rows_of_run, start_run, wait_for_shards, write_numbered

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]
ROWS, SHARD = 8000, 400


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_goes_on(
    number: signal.Signals,
    code: int,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    source = write_numbered(tmp_path / "in.jsonl", ROWS)
    arguments = [folder, source, "--shard-rows", SHARD, "--output", output]
    # Tests that run in the background inherit an ignored SIGINT.
    run = start_run(*arguments, before=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for_shards(output, 3, run)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode in (code, -signal.SIGINT if code == 130 else code), err
    assert "Traceback" not in err
    written = {path.name: path.stat().st_mtime_ns for path in output.glob("part-*")}
    assert 3 <= len(written) < ROWS // SHARD
    assert "finished" not in json.loads((output / "score.json").read_text())
    if number != signal.SIGKILL:
        assert not list(output.glob(".part-*"))
    code, out, err = call(capsys, "score", *arguments)
    assert (code, out) == (2, "")
    assert "is not empty; choose another --output, or go on with a run there: --resume" in err
    with (output / "shards.jsonl").open("a") as log:
        log.write('{"index": 7, "fi')  # as a full disk leaves it
    code, out, _ = call(capsys, "score", *arguments, "--resume")
    assert (code, f"{ROWS} rows in {ROWS // SHARD} shards" in out) == (0, True)
    assert not list(output.glob(".part-*"))
    assert [row["id"] for row in rows_of_run(output)] == list(range(ROWS))
    logged = [json.loads(line)["file"] for line in (output / "shards.jsonl").open()]
    assert sorted(logged) == [path.name for path in sorted(output.glob("part-*"))]
    # What was there and taken down was left alone.
    kept = {n for n, at in written.items() if (output / n).stat().st_mtime_ns == at}
    assert len(kept) >= 3


def test_damaged_shards_are_scored_again(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    source = write_numbered(tmp_path / "in.jsonl", 50)
    arguments = ["score", folder, source, "--shard-rows", 10, "--output", output]
    assert call(capsys, *arguments)[0] == 0
    whole = {path.name: path.read_bytes() for path in output.glob("part-*")}
    cut, changed, gone = (output / f"part-00000{n}.jsonl" for n in (0, 2, 4))
    cut.write_bytes(whole[cut.name][:-10])
    changed.write_bytes(whole[changed.name].replace(b"good", b"evil"))
    gone.unlink()
    code, out, err = call(capsys, *arguments, "--resume")
    assert (code, "50 rows in 5 shards, 30 scored" in out) == (0, True)
    for path, problem in ((cut, "changed: "), (changed, "changed: SHA-256"), (gone, "missing")):
        assert f"warning: {path}: {problem}" in err
    assert {path.name: path.read_bytes() for path in output.glob("part-*")} == whole
    code, out, err = call(capsys, *arguments, "--resume")
    assert (code, "50 rows in 5 shards, 0 scored" in out) == (0, True)
    assert "warning" not in err


def test_a_full_disk_is_said_and_the_run_goes_on_later(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    # The second shard is larger than files may be.
    write_numbered(tmp_path / "in.jsonl", 20)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.writelines(json.dumps({"id": i, "text": "long " * 900}) + "\n" for i in range(20, 40))
    arguments = [folder, tmp_path / "in.jsonl", "--shard-rows", 20, "--output", output]
    limit = (50_000, resource.RLIM_INFINITY)
    run = start_run(*arguments, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    out, err = run.communicate(timeout=120)
    assert (run.returncode, out) == (2, ""), err
    assert f"{output}: a file would exceed the size limit" in err
    assert_one_message(err)
    assert sorted(path.name for path in output.iterdir()) == [
        "part-000000.jsonl",
        "score.json",
        "shards.jsonl",
    ]
    code, out, _ = call(capsys, "score", *arguments, "--resume")
    assert (code, "40 rows in 2 shards, 20 scored" in out) == (0, True)
    assert [row["id"] for row in rows_of_run(output)] == list(range(40))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--prefix", "x_"], "prefix"),
        (["--shard-rows", "7"], "shard_rows"),
        (["--top-k", "1"], "options"),
        (["--provider", "torch"], "provider"),
    ],
)
def test_another_run_is_not_gone_on_with(
    change: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
    make_artifact: MakeArtifact,
    tmp_path: Path,
) -> None:
    folder, output = make_artifact("sequence-classification"), tmp_path / "out"
    source = write_numbered(tmp_path / "in.jsonl", 9)
    arguments = ["score", folder, source, "--output", output]
    assert call(capsys, *arguments)[0] == 0
    code, _, err = call(capsys, *arguments, "--resume", *change)
    assert (code, f"its run had another {named}; give the same" in err) == (2, True)
    write_numbered(source, 10)
    code, _, err = call(capsys, *arguments, "--resume")
    assert (code, "its run had another inputs" in err) == (2, True)


def test_folders_of_others_are_left_alone(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder, output = make_artifact("base"), tmp_path / "out"
    source = write_numbered(tmp_path / "in.jsonl", 9)
    output.mkdir()
    (output / "mine.txt").write_text("mine")
    arguments = ["score", folder, source, "--output", output]
    for options, message in (([], "is not empty"), (["--resume"], "is not empty; choose another")):
        code, _, err = call(capsys, *arguments, *options)
        assert (code, message in err) == (2, True)
    for content in ("{", "[]", '{"format": "other"}'):
        (output / "score.json").write_text(content)
        code, _, err = call(capsys, *arguments, "--resume")
        assert (code, "not the record of a run" in err) == (2, True)
    assert (output / "mine.txt").read_text() == "mine"
    shutil.rmtree(output)
    output.write_text("a file")
    code, _, err = call(capsys, *arguments)
    assert (code, "a part of the path is a file" in err) == (2, True)


def test_two_runs_do_not_share_a_folder(
    capsys: pytest.CaptureFixture[str], make_artifact: MakeArtifact, tmp_path: Path
) -> None:
    folder, output = make_artifact("base"), tmp_path / "out"
    source = write_numbered(tmp_path / "in.jsonl", ROWS)
    arguments = [folder, source, "--shard-rows", SHARD, "--output", output]
    run = start_run(*arguments)
    wait_for_shards(output, 1, run)
    code, _, err = call(capsys, "score", *arguments, "--resume")
    run.kill()
    run.communicate()
    assert (code, "another run writes there; wait, or end it" in err) == (2, True)
