"""The workflow in docs/ci.md: well formed, its commands parsed, and run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.cli import PROGRAM, cli
from exporter.parity.limits import chosen_limits

PAGE = Path(__file__).parents[2] / "docs" / "ci.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    workflow = yaml.safe_load(block("yaml"))
    # YAML 1.1 reads the key "on" as true.
    assert set(workflow[True]) == {"pull_request", "workflow_dispatch"}
    (job,) = workflow["jobs"].values()
    assert job["runs-on"] == "ubuntu-latest"
    found: list[dict[str, Any]] = job["steps"]
    return found


def script(steps: list[dict[str, Any]], name: str) -> str:
    text: str = next(step["run"] for step in steps if step.get("name") == name)
    return text


def test_every_step_is_an_action_or_a_script(steps: list[dict[str, Any]]) -> None:
    for step in steps:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"])
    last = steps[-1]
    assert (last["uses"], last["if"]) == ("actions/upload-artifact@v4", "always()")


def test_the_commands_are_ours(steps: list[dict[str, Any]]) -> None:
    lines = [
        line.strip()
        for step in steps
        for line in step.get("run", "").splitlines()
        if line.strip().startswith(f"{PROGRAM} ")
    ]
    assert len(lines) == 2
    for line in lines:
        arguments = shlex.split(line.partition("||")[0])[1:]
        with cli.make_context(PROGRAM, list(arguments)) as context:
            command = cli.get_command(context, arguments[0])
            assert command is not None
            with command.make_context(arguments[0], arguments[1:], parent=context):
                pass


def test_the_limits_are_limits(tmp_path: Path) -> None:
    path = tmp_path / "parity.toml"
    path.write_text(block("toml"), encoding="utf-8")
    limits = chosen_limits("fp16", path)
    assert {limit.metric.value for limit in limits.limits if limit.origin == "parity.toml"} == {
        "agreement",
        "accuracy_drop",
    }


def test_the_commands_work(
    steps: list[dict[str, Any]],
    make_checkpoint,  # type: ignore[no-untyped-def]
    tmp_path: Path,
) -> None:
    shutil.copytree(make_checkpoint("sequence-classification"), tmp_path / "models" / "classifier")
    (tmp_path / "tests").mkdir()
    lines = [f"text number {index}\t{index % 2}" for index in range(12)]
    (tmp_path / "tests" / "labelled.tsv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "parity.toml").write_text(block("toml"), encoding="utf-8")
    tool = tmp_path / "bin" / PROGRAM
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m exporter "$@"\n')
    tool.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(PAGE.parents[1]),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "OMP_NUM_THREADS": "1",
    }

    def run(name: str) -> int:
        command = ["bash", "-e", "-c", script(steps, name)]
        return subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode

    assert [run(name) for name in ("Build", "Parity", "Summary")] == [0, 0, 0]
    report = json.loads((tmp_path / "report" / "parity.json").read_text())
    assert report["passed"] is True
    assert [item["name"] for item in report["data_sets"]] == ["generated lengths", "labelled.tsv"]
    assert report["data_sets"][1]["decisions"]["logits"]["labelled"] == 12
    assert (tmp_path / "summary.md").read_text().startswith("## Parity: pass")

    # Outside its limits the step fails, and the report is there all the same.
    (tmp_path / "parity.toml").write_text("[limits]\nlayer_rms_relative = 1e-9\n")
    assert [run(name) for name in ("Parity", "Summary")] == [1, 0]
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        *("parity.json", "parity.xml", "parity.md", "parity.html")
    }
    assert "## Parity: **FAIL**" in (tmp_path / "summary.md").read_text()
