"""Makes `tests/support` importable, keeps the tests from using more threads than they need, and in
CI fails skips that nobody expects."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)

_WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if _WORKER.startswith("gw") and hasattr(os, "sched_setaffinity"):
    # One processor for each of several workers, or every library of each would take them all.
    _usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_usable[int(_WORKER.removeprefix("gw")) % len(_usable)]})


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("CI") == "true":
        from support import expected_skips

        config.pluginmanager.register(expected_skips, "expected_skips")
