"""Threads of a machine: cores, hardware threads, quotas of both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from exporter.threads import cpu_quota, default_threads, physical_cores

PROCESSORS = {0, 1, 2, 3, 5}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system of 4 cores with 2 hardware threads each, of which 5 processors may be used."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: PROCESSORS, raising=False)
    for processor in range(8):
        first = processor // 2 * 2
        write(
            tmp_path / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list",
            f"{first}-{first + 1}\n",
        )
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_hardware_threads_of_a_core_count_once(root: Path) -> None:
    assert physical_cores(root) == 3  # 0 and 1, 2 and 3, and 5
    assert default_threads(root) == 3


def test_unknown_cores_leave_the_choice_to_the_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert physical_cores(tmp_path) is None
    assert default_threads(tmp_path) is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert physical_cores(Path("/")) is None


def test_this_machine_has_cores() -> None:
    found = default_threads()
    assert found is None or 1 <= found <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("text", "quota", "threads"),
    [
        ("max 100000", None, 3),
        ("250000 100000", 2.5, 2),
        ("50000 100000", 0.5, 1),
        ("900000 100000", 9.0, 3),
        ("garbage", None, 3),
        ("0 0", None, 3),
    ],
)
def test_quota_of_version_2(root: Path, text: str, quota: float | None, threads: int) -> None:
    write(root / "proc/self/cgroup", "0::/a.slice/b.scope\n")
    write(root / "sys/fs/cgroup/a.slice/b.scope/cpu.max", text)
    assert cpu_quota(root) == quota
    assert default_threads(root) == threads


def test_the_smallest_limit_of_the_groups_around_counts(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/outer/inner\n")
    write(root / "sys/fs/cgroup/outer/inner/cpu.max", "300000 100000")
    write(root / "sys/fs/cgroup/outer/cpu.max", "200000 100000")
    assert cpu_quota(root) == 2.0


def test_a_container_that_sees_only_its_own_group(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/../../host/path\n")
    write(root / "sys/fs/cgroup/cpu.max", "150000 100000")
    assert cpu_quota(root) == 1.5


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_quota_of_version_1(root: Path, folder: str) -> None:
    write(root / "proc/self/cgroup", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n")
    group = root / "sys/fs/cgroup" / folder
    write(group / "cpu.cfs_quota_us", "200000")
    write(group / "cpu.cfs_period_us", "100000")
    assert cpu_quota(root) == 2.0
    write(group / "cpu.cfs_quota_us", "-1")
    assert cpu_quota(root) is None
