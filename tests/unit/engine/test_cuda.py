"""The driver's GPU and the memory that is free on it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from exporter.engine.cuda import Gpu, check_device_memory, find_gpu
from exporter.errors import MissingDependencyError


def test_no_driver() -> None:
    with pytest.raises(MissingDependencyError, match="no NVIDIA driver"):
        find_gpu("libno_such_driver.so.1")


@pytest.mark.parametrize(
    ("devices", "names"),
    [(0, "no GPU is visible"), (-1, "the NVIDIA driver fails with CUDA error 999")],
)
def test_a_driver_without_a_gpu(devices: int, names: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=names):
        find_gpu(str(driver(tmp_path, devices)))


def test_a_driver_with_a_gpu(tmp_path: Path) -> None:
    assert find_gpu(str(driver(tmp_path, 1))) == Gpu("Ada", 89)


def driver(folder: Path, devices: int) -> Path:
    """A driver's library that knows a number of GPUs; -1 for one that does not work."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    source = """
        #include <string.h>
        int cuInit(unsigned flags) { return DEVICES < 0 ? 999 : DEVICES == 0 ? 100 : 0; }
        int cuDeviceGet(int* device, int index) { *device = 7; return index < DEVICES ? 0 : 101; }
        int cuDeviceGetName(char* name, int size, int device) {
          strncpy(name, "Ada", size);
          return 0;
        }
        int cuDeviceGetAttribute(int* number, int attribute, int device) {
          *number = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
          return device == 7 ? 0 : 101;
        }
    """
    path = folder / "libcuda.so.1"
    command = ["cc", "-shared", "-fPIC", f"-DDEVICES={devices}", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def test_device_memory_that_is_enough() -> None:
    check_device_memory("it", 5, 5)
