"""Launches PTX through the CUDA driver alone, as TensorRT does: no Triton, no hidden parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

from plugins.disentangled_attention.ptx import CompiledKernel

MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
"""`CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES` of cuda.h."""


class DriverError(RuntimeError):
    """A call of the driver failed."""


class DriverKernel:
    """A kernel's PTX loaded into the current device's context, which PyTorch must have made.

    Raises:
        DriverError: the driver does not take the PTX, or has not so much shared memory.
    """

    def __init__(self, kernel: CompiledKernel) -> None:
        self.kernel = kernel
        self.driver = ctypes.CDLL("libcuda.so.1")
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), kernel.ptx.encode() + b"\0")
        name = kernel.entry.encode()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name)
        shared = ctypes.c_int(kernel.shared_bytes)
        self._call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED_SIZE_BYTES, shared)
        self.function = function

    def launch(
        self,
        tensors: Sequence[torch.Tensor],
        scalars: Sequence[int],
        output: torch.Tensor,
        grid: int,
    ) -> None:
        """Inputs, int32 scalars, output: what TensorRT passes, in its order, and nothing else."""
        values: list[ctypes.c_void_p | ctypes.c_int32] = [
            *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors),
            *(ctypes.c_int32(scalar) for scalar in scalars),
            ctypes.c_void_p(output.data_ptr()),
        ]
        pointers = (ctypes.c_void_p * len(values))(
            *(ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in values)
        )
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        self._call(
            "cuLaunchKernel", self.function, grid, 1, 1, self.kernel.threads, 1, 1,
            self.kernel.shared_bytes, stream, pointers, None,
        )  # fmt: skip

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self.driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self.driver.cuGetErrorString(code, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or b'unknown').decode()} ({code})")
