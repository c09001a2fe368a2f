"""A plugin of pytest that CI runs with: a skip that `expected_skips.toml` does not list fails."""

from __future__ import annotations

import sys
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LIST = Path(__file__).parents[1] / "expected_skips.toml"

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@cache
def expected() -> tuple[tuple[str, str], ...]:
    """File and beginning of the reason of each skip that is listed."""
    entries = tomllib.loads(LIST.read_text(encoding="utf-8"))["skip"]
    assert all(entry["because"].strip() for entry in entries), f"{LIST}: each needs a because"
    return tuple((entry["file"], entry["reason"]) for entry in entries)


def judged(report: Report) -> Report:
    """The report, failed where it is of a skip that is not listed."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    file = report.nodeid.partition("::")[0]
    if not any(file == name and reason.startswith(start) for name, start in expected()):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skipped, and {LIST.name} does not list it: {reason}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return judged((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return judged((yield))
