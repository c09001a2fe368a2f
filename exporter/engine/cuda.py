"""The GPU that engines run on: whether there is one, its memory, streams and graphs.

CI has no GPU: of this file it runs what looks for the driver, and the messages.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from exporter.errors import MissingDependencyError

if TYPE_CHECKING:
    import torch

Replay: TypeAlias = Callable[[], None]

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_NO_DEVICE = 100
_GIB = 1 << 30


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name and its compute capability, 89 for SM 8.9."""

    name: str
    capability: int


def find_gpu(library: str = "libcuda.so.1") -> Gpu:
    """The first GPU, as the driver tells.

    Raises:
        MissingDependencyError: no driver, or no such GPU.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        raise MissingDependencyError(
            "no NVIDIA driver is installed; an engine runs on a machine with one, "
            'provider "cpu" runs anywhere'
        ) from None
    code = driver.cuInit(0)
    if code == _NO_DEVICE:
        raise MissingDependencyError('no GPU is visible; provider "cpu" runs without one')
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    code = code or driver.cuDeviceGet(ctypes.byref(device), 0)
    code = code or driver.cuDeviceGetName(name, len(name), device)
    for attribute, number in ((_MAJOR, major), (_MINOR, minor)):
        code = code or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
    if code:
        raise MissingDependencyError(f"the NVIDIA driver fails with CUDA error {code}")
    return Gpu(name.value.decode("utf-8", "replace"), 10 * major.value + minor.value)


def check_device_memory(what: str, needed: int, free: int) -> None:
    """Refuse what would not fit on the GPU.

    Raises:
        MissingDependencyError: `needed` bytes are more than `free`.
    """
    if needed > free:
        raise MissingDependencyError(
            f"{what} takes {needed / _GIB:.2f} GiB on the GPU and {free / _GIB:.2f} GiB are free; "
            "build with a smaller --batch or --seq, or free some"
        )


class CudaDevice:
    """Where a session keeps its buffers and queues its work: PyTorch's allocator, streams, graphs.

    Tests without a GPU have a stand-in with the same methods.

    Raises:
        MissingDependencyError: no driver, no GPU, or PyTorch is missing or built without CUDA.
    """

    def __init__(self) -> None:
        self.gpu = find_gpu()
        if find_spec("torch") is None:
            raise MissingDependencyError('PyTorch is not installed; pip install "deb-export[gpu]"')
        import torch

        if not torch.cuda.is_available():
            raise MissingDependencyError(
                f"PyTorch {torch.__version__} cannot use the GPU; install a build with CUDA"
            )
        self._device = torch.device("cuda", 0)
        self._stream: torch.cuda.Stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

    @property
    def stream(self) -> int:
        """Handle of the stream that all work is queued on."""
        return int(self._stream.cuda_stream)

    def free_bytes(self) -> int:
        """Memory that can be allocated."""
        import torch

        return int(torch.cuda.mem_get_info(self._device)[0])

    def empty(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """A buffer."""
        import torch

        return torch.empty(elements, dtype=dtype, device=self._device)

    def queue(self) -> AbstractContextManager[Any]:
        """Within it, copies and kernels go to the stream, behind what the caller has queued."""
        import torch

        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Replay:
        """Record what `work` queues as a CUDA graph; the result queues it again."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            work()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay
