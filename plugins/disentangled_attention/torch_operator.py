"""The operator in PyTorch: `torch.ops.deb_export.disentangled_attention`, for inference.

On CUDA it launches the Triton kernel, on a CPU it computes the oracle's formula. `torch.compile`
takes it as one node, and a CUDA graph captures it once a first call has compiled the kernel. CI
runs the CPU side and the tracing; the CUDA side needs a GPU (`pytest -m gpu tests/gpu`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from plugins.disentangled_attention import contract, oracle
from plugins.disentangled_attention.launch import (
    KernelSpec,
    TileConfig,
    constants,
    grid,
    head_size_of,
    scalars,
)
from plugins.disentangled_attention.tuning import tile_for

NAME = f"{contract.DOMAIN}::disentangled_attention"
SCHEMA = (
    "(Tensor qkv, Tensor pos_key, Tensor pos_query, Tensor slots, Tensor mask, "
    "int num_heads, float scale, bool c2p, bool p2c, int? queries=None) -> Tensor"
)
_NAMES = (*contract.INPUTS, *contract.ATTRIBUTES, "queries")


@torch.library.custom_op(NAME, mutates_args=(), device_types="cuda", schema=SCHEMA)
def _operator(*operands: Any) -> Tensor:
    named = _named(operands)
    spec = operator_spec(**named)
    qkv = named["qkv"]
    tile = tile_for(spec, _capability(qkv.device.index), _rows(qkv, spec.queries))
    return launch(*operands[: len(contract.INPUTS)], spec=spec, tile=tile)


@_operator.register_kernel("cpu")
def _on_cpu(*operands: Any) -> Tensor:
    named = _named(operands)
    operator_spec(**named)
    return oracle.disentangled_attention(**named)


@_operator.register_fake
def _shape_only(*operands: Any) -> Tensor:
    named = _named(operands)
    return _empty_context(named["qkv"], named.get("queries"))


def _named(operands: Sequence[Any]) -> dict[str, Any]:
    """Operands by name; PyTorch leaves out a last one that has its default."""
    return dict(zip(_NAMES, operands, strict=False))


def _rows(qkv: Tensor, queries: int | None) -> int:
    return qkv.shape[1] if queries is None else min(queries, qkv.shape[1])


def _empty_context(qkv: Tensor, queries: int | None) -> Tensor:
    return qkv.new_empty(qkv.shape[0], _rows(qkv, queries), qkv.shape[2] // 3)


def disentangled_attention(
    qkv: Tensor, pos_key: Tensor, pos_query: Tensor, slots: Tensor, mask: Tensor,
    *, num_heads: int, scale: float, c2p: bool, p2c: bool, queries: int | None = None,
) -> Tensor:  # fmt: skip
    """Attention of one layer: `oracle.disentangled_attention`, fused where there is a GPU.

    Arguments are the contract's: fp32, fp16 or bf16, with a placeholder `(H, 1, D)` for a term that
    is absent. A row with no key to attend to is finite, and unspecified. Raises ValueError for
    types, ranks or sizes that are not the contract's, `queries` below 1 or a GPU that is too old,
    ImportError for CUDA tensors without Triton.
    """
    tensors = (qkv, pos_key, pos_query, slots, mask)
    attended: Tensor = _operator(*tensors, num_heads, scale, c2p, p2c, queries)
    return attended


def operator_spec(
    qkv: Tensor, pos_key: Tensor, pos_query: Tensor, slots: Tensor, mask: Tensor,
    *, num_heads: int, scale: float, c2p: bool, p2c: bool, queries: int | None = None,
) -> KernelSpec:  # fmt: skip
    """What the kernel is compiled for, to take these tensors.

    Raises ValueError, naming the tensor, where types and shapes are not the contract's.
    """
    tensors = dict(zip(contract.INPUTS, (qkv, pos_key, pos_query, slots, mask), strict=True))
    for name, tensor in tensors.items():
        if tensor.ndim != contract.RANKS[name]:
            raise ValueError(f"{name} has rank {tensor.ndim}; it must be {contract.RANKS[name]}")
        if tensor.device != qkv.device:
            raise ValueError(f"{name} is on {tensor.device} and qkv on {qkv.device}")
    size = head_size_of(qkv.shape[2], num_heads)
    for name in ("pos_key", "pos_query"):
        table = tensors[name]
        if table.dtype != qkv.dtype:
            raise ValueError(f"{name} is {table.dtype} and qkv is {qkv.dtype}")
        if (table.shape[0], table.shape[2]) != (num_heads, size) or table.shape[1] < 1:
            raise ValueError(f"{name} is {tuple(table.shape)}; it must be ({num_heads}, R, {size})")
    if slots.dtype != torch.int32 or slots.numel() % 2 == 0:
        raise ValueError(f"slots is {slots.dtype} of {slots.numel()}; it must be int32, 2 * P + 1")
    if mask.shape != qkv.shape[:2]:
        raise ValueError(f"mask is {tuple(mask.shape)}; it must be {tuple(qkv.shape[:2])}")
    dtype, mask_dtype = (str(tensor.dtype).removeprefix("torch.") for tensor in (qkv, mask))
    return KernelSpec(num_heads, size, scale, c2p, p2c, dtype, mask_dtype, queries)


def launch(
    qkv: Tensor, pos_key: Tensor, pos_query: Tensor, slots: Tensor, mask: Tensor,
    *, spec: KernelSpec, tile: TileConfig,
) -> Tensor:  # fmt: skip
    """Launch the kernel on CUDA tensors of the `spec`, copied first where they are not contiguous.

    Raises ImportError without Triton.
    """
    from plugins.disentangled_attention.kernel import disentangled_attention_kernel as kernel

    batch, length, _ = qkv.shape
    context = _empty_context(qkv, spec.queries)
    if batch == 0 or length == 0:
        return context
    keys = mask.contiguous()
    tensors = [tensor.contiguous() for tensor in (qkv, pos_key, pos_query, slots)]
    # The kernel reads a bool mask as bytes, as TensorRT passes it.
    tensors.append(keys.view(torch.int8) if keys.dtype == torch.bool else keys)
    with torch.cuda.device(qkv.device):
        kernel[(grid(batch, context.shape[1], spec, tile),)](
            *tensors,
            *scalars(length, pos_key.shape[1], pos_query.shape[1], slots.shape[0]),
            context,
            **constants(spec, tile),
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
            enable_fp_fusion=True,
        )
    return context


@lru_cache
def _capability(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
