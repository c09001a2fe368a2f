"""Files, folders and pages that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
YOURS = {"tests/labelled.tsv"}  # in the repository of the reader
TOPS = "exporter|calibration|plugins|tests|benchmarks|tools|examples|docs"
PATH = re.compile(rf"`((?:{TOPS})/[\w./-]*)")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in PATH.findall(text):
        assert (ROOT / name).exists() or name in YOURS, name
    for name in LINK.findall(text):
        assert (page.parent / name).exists(), name
