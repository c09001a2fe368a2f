"""Builds that would not fit are foreseen."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.engine.memory import available_bytes, check_memory, expected_bytes
from exporter.errors import MissingDependencyError

GIB = 1 << 30


@pytest.mark.parametrize(
    ("weights", "measured"),
    [
        (773_933_282, 2.62 * GIB),  # v3-base, fp32, TensorRT-RTX 1.7.1, this graph
        (6_567_479_422, 20.3 * GIB),  # the 1.5B shape, a stock fp32 graph
    ],
)
def test_the_estimate_is_near_what_builds_took(weights: int, measured: float) -> None:
    assert 0.95 < expected_bytes(weights) / measured < 1.15


def test_a_build_that_does_not_fit_is_refused() -> None:
    check_memory("TensorRT", GIB, 4 * GIB)
    check_memory("TensorRT", 100 * GIB, None)
    with pytest.raises(MissingDependencyError, match=r"about 3\.8 GiB .* 3\.0 GiB are free"):
        check_memory("TensorRT", GIB, 3 * GIB)


def test_the_container_counts_where_it_is_smaller(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    for folder in (group / "inner", tmp_path / "proc/self"):
        folder.mkdir(parents=True)
    assert available_bytes(tmp_path) is None
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   4194304 kB\n")
    assert available_bytes(tmp_path) == 4 * GIB
    (group / "memory.max").write_text(f"{2 * GIB}\n")
    (group / "memory.current").write_text(f"{GIB}\n")
    assert available_bytes(tmp_path) == 2 * GIB - GIB // 2
    (tmp_path / "proc/self/cgroup").write_text("0::/inner\n")
    (group / "inner/memory.max").write_text(f"{GIB}\n")
    (group / "inner/memory.current").write_text("0\n")
    assert available_bytes(tmp_path) == GIB
    for folder in (group, group / "inner"):
        (folder / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) == 4 * GIB


def test_a_container_of_version_1(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/memory"
    for folder in (group, tmp_path / "proc/self"):
        folder.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n")
    (group / "memory.limit_in_bytes").write_text(f"{GIB}\n")
    (group / "memory.usage_in_bytes").write_text("0\n")
    assert available_bytes(tmp_path) == GIB
