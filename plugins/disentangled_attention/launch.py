"""What a launch of the kernel needs: what it is compiled for, its tiles, its grid, its scalars.

Nothing here imports Triton or torch, and the arithmetic on shapes is `+ - * //` alone, so that
TensorRT's symbolic shape expressions pass through it as Python integers do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

DTYPES = ("float32", "float16", "bfloat16")
MASK_DTYPES = ("int32", "bool")

SCALARS = ("length", "key_slots", "query_slots", "table_length")
MAX_HEAD_SIZE = 256


@dataclass(frozen=True)
class KernelSpec:
    """What is fixed when the kernel is compiled; batch, length and slots are not.

    Raises ValueError for a type, a head count, a head size or rows that the kernel does not have.
    """

    num_heads: int
    head_size: int
    scale: float
    c2p: bool = True
    p2c: bool = True
    dtype: str = "float16"
    """Storage of `qkv`, `pos_key`, `pos_query` and `context`; sums are in float32."""
    mask_dtype: str = "int32"
    queries: int | None = None
    """Leading rows that are computed; None for all."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; the kernel has {', '.join(DTYPES)}")
        if self.mask_dtype not in MASK_DTYPES:
            raise ValueError(f"mask is {self.mask_dtype!r}; the kernel has int32 and bool")
        if self.num_heads < 1:
            raise ValueError(f"num_heads is {self.num_heads}; it must be at least 1")
        if self.queries is not None and self.queries < 1:
            raise ValueError(f"queries is {self.queries}; it must be at least 1, or None for all")
        if not 1 <= self.head_size <= MAX_HEAD_SIZE:
            size, most = self.head_size, MAX_HEAD_SIZE
            raise ValueError(f"head size is {size}; the kernel takes 1 to {most}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale is {self.scale}; it must be positive")

    @property
    def padded_head_size(self) -> int:
        """The power of two, at least 16, that a matrix instruction takes."""
        return max(16, 1 << (self.head_size - 1).bit_length())


@dataclass(frozen=True)
class TileConfig:
    """How the kernel is cut: rows and keys of a tile, warps of a program, depth of the pipeline.

    Raises ValueError unless they are powers of two, rows and keys of 16 at least.
    """

    block_m: int
    block_n: int
    """Keys of a near tile, which needs a window of the position tables."""
    far_n: int
    """Keys of a far tile, which needs none, and of every tile without position terms."""
    num_warps: int
    num_stages: int

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n", "far_n", "num_warps"):
            value = getattr(self, name)
            least = 1 if name == "num_warps" else 16
            if value < least or value & (value - 1):
                raise ValueError(f"{name} is {value}; it must be a power of two from {least} up")
        if self.num_stages < 1:
            raise ValueError(f"num_stages is {self.num_stages}; it must be at least 1")


def constants(spec: KernelSpec, tile: TileConfig) -> dict[str, Any]:
    """Compile-time arguments of the kernel, by name."""
    return {
        "H": spec.num_heads,
        "D": spec.head_size,
        "BLOCK_D": spec.padded_head_size,
        "SCALE": spec.scale,
        "C2P": spec.c2p,
        "P2C": spec.p2c,
        "QUERIES": spec.queries or 0,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "FAR_N": tile.far_n,
        # Three products of tf32 keep float32's digits; narrow types have one way to multiply.
        "PRECISION": "tf32x3" if spec.dtype == "float32" else "ieee",
    }


def grid(batch: Any, rows: Any, spec: KernelSpec, tile: TileConfig) -> Any:
    """Programs of the one-dimensional grid: `ceil(rows / block_m) * H * B`.

    `B` and the rows to compute are integers or symbolic expressions with `+`, `*` and `//`, and so
    is the result.
    """
    # The batch first: an expression takes a number on its right only.
    return batch * ((rows + (tile.block_m - 1)) // tile.block_m) * spec.num_heads


def scalars(length: Any, key_slots: Any, query_slots: Any, table_length: Any) -> tuple[Any, ...]:
    """The int32 arguments between inputs and output, in the order of `SCALARS`.

    `S`, the second dimensions of `pos_key` and `pos_query`, and `2 * P + 1`, the length of `slots`.
    """
    return (length, key_slots, query_slots, table_length)


def head_size_of(width: int, num_heads: int) -> int:
    """`D`, of the packed width `3*H*D`; ValueError for a width that is no such multiple."""
    size, rest = divmod(width, 3 * num_heads)
    if rest or size < 1:
        raise ValueError(f"qkv is {width} wide; it must be 3 * {num_heads} heads * head size")
    return size
