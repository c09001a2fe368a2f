"""PTX of the kernel for a GPU that need not be there, in the form that TensorRT launches.

TensorRT passes inputs, int32 scalars and the output, and nothing else. Triton's entry has hidden
pointers behind these (scratch memory); they are removed when the body reads none of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from plugins.disentangled_attention import contract
from plugins.disentangled_attention.launch import SCALARS, KernelSpec, TileConfig, constants

# The oldest PTX that has the target, so that the oldest driver that knows the GPU takes it: 8.0 is
# CUDA 12.0 (TensorRT 10 asks for no less), 8.6 and 8.7 are CUDA 12.8. CUDA 13.0 takes up to 9.0.
PTX_VERSIONS = {80: 80, 86: 80, 89: 80, 90: 80, 100: 86, 103: 88, 120: 87, 121: 88}
NEWEST_PTX = 90

PARAMETERS = (*contract.INPUTS, *SCALARS, *contract.OUTPUTS)
_ENTRY = re.compile(r"\.visible\s+\.entry\s+([\w$]+)\s*\(\s*(.*?)\s*\)", re.DOTALL)
_POINTERS = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}


class KernelError(RuntimeError):
    """The compiler's output is not what TensorRT could launch."""


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel for one GPU architecture; the entry takes `PARAMETERS`."""

    ptx: str
    entry: str
    shared_bytes: int
    """Dynamic shared memory of a program. Above 49,152 the launcher must raise the limit."""
    threads: int


def compile_ptx(spec: KernelSpec, tile: TileConfig, capability: int) -> CompiledKernel:
    """Compile the kernel for a compute capability times ten, such as 90; needs Triton, and no GPU.

    Raises KernelError when the entry reads Triton's hidden parameters, or has others than expected.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from plugins.disentangled_attention.kernel import disentangled_attention_kernel as kernel

    signature, attributes = _signature(kernel.arg_names, spec)
    source = ASTSource(kernel, signature, constants(spec, tile), attributes)
    options = {
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
        "ptx_version": PTX_VERSIONS.get(capability, NEWEST_PTX),
        # Triton 3.9 no longer contracts products and sums unless asked to.
        "enable_fp_fusion": True,
    }
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx, entry = strip_hidden_parameters(built.asm["ptx"], len(PARAMETERS))
    threads = 32 * int(built.metadata.num_warps)
    return CompiledKernel(ptx, entry, int(built.metadata.shared), threads)


def strip_hidden_parameters(ptx: str, expected: int) -> tuple[str, str]:
    """The PTX without the entry's parameters behind the first `expected`, and the entry's name.

    Raises KernelError for any number of entries but one, too few parameters, or a body that reads a
    hidden one.
    """
    entries = list(_ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise KernelError(f"the PTX has {len(entries)} entries; expected one")
    (entry,) = entries
    declared = [line.strip() for line in entry[2].split(",") if line.strip()]
    if len(declared) < expected:
        raise KernelError(f"the entry has {len(declared)} parameters; expected {expected}")
    body = ptx[entry.end() :]
    for line in declared[expected:]:
        name = line.split()[-1]
        if re.search(rf"{re.escape(name)}\b", body):
            raise KernelError(
                f"the kernel reads {name}, which Triton adds and TensorRT does not pass "
                f"({line}); a tile configuration without scratch memory is needed"
            )
    kept = ",\n".join(f"\t{line}" for line in declared[:expected])
    return f"{ptx[: entry.start(2)].rstrip()}\n{kept}\n{ptx[entry.end(2) :].lstrip()}", entry[1]


def _signature(names: list[str], spec: KernelSpec) -> tuple[dict[str, str], dict[Any, Any]]:
    """Triton's types and attributes of the kernel's arguments."""
    if tuple(names[: len(PARAMETERS)]) != PARAMETERS:
        raise KernelError(f"the kernel's arguments are {names}; expected {PARAMETERS} first")
    types = dict.fromkeys(names, "constexpr")
    for name in PARAMETERS:
        types[name] = "i32" if name in SCALARS else _POINTERS[spec.dtype]
    types["slots"] = "*i32"
    types["mask"] = "*i32" if spec.mask_dtype == "int32" else "*i8"
    # TensorRT and PyTorch align buffers far more than the 16 bytes of a vector load.
    aligned = [["tt.divisibility", 16]]
    pointers = [place for place, name in enumerate(PARAMETERS) if name not in SCALARS]
    return types, {(place,): aligned for place in pointers}
