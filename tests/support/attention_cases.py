"""Cases of the attention operator: tensors between guards, and the kernel in the interpreter.

`interpret` runs in a process of its own, since Triton reads `TRITON_INTERPRET` when it is imported.
This module imports no Triton at the top, so that the process can set it first.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from plugins.disentangled_attention.launch import (
    KernelSpec,
    TileConfig,
    constants,
    grid,
    scalars,
)
from plugins.disentangled_attention.oracle import disentangled_attention
from plugins.disentangled_attention.slots import slot_table

GUARD = 256
"""Elements before and behind every buffer; a multiple of what the kernel may take as aligned."""
UNTOUCHED = -1234.0


@dataclass(frozen=True)
class Case:
    """One call of the operator with random tensors."""

    length: int
    tile: TileConfig
    size: int = 16
    heads: int = 2
    batch: int = 2
    dtype: str = "float32"
    mask_dtype: str = "int32"
    c2p: bool = True
    p2c: bool = True
    span: int = 8
    buckets: int = 8
    max_position: int = 16
    mask: str = "ragged"
    """`whole`, `ragged`, `holes`, `tail` (one key, the last), `empty` (no key in the last row)."""
    spread: float = 1.0
    """Standard deviation of queries, keys and values."""
    queries: int | None = None
    """Leading rows to compute; None for all."""

    @property
    def rows(self) -> int:
        """How many rows the context has."""
        return self.length if self.queries is None else self.queries

    @property
    def spec(self) -> KernelSpec:
        """What the kernel is compiled for."""
        scale = 1 / math.sqrt(self.size * (1 + self.c2p + self.p2c))
        return KernelSpec(
            self.heads, self.size, scale, self.c2p, self.p2c, self.dtype, self.mask_dtype,
            self.queries,
        )  # fmt: skip


@dataclass(frozen=True)
class Guarded:
    """A tensor inside a larger one whose ends nobody may use."""

    whole: torch.Tensor
    tensor: torch.Tensor

    @staticmethod
    def around(tensor: torch.Tensor, guard: float) -> Guarded:
        """A copy of `tensor` with `guard` to both sides."""
        shape = (tensor.numel() + 2 * GUARD,)
        whole = torch.full(shape, guard, dtype=tensor.dtype, device=tensor.device)
        inner = whole[GUARD : GUARD + tensor.numel()].view(tensor.shape)
        inner.copy_(tensor)
        return Guarded(whole, inner)


def make_mask(case: Case, generator: torch.Generator) -> torch.Tensor:
    """bool `(B, S)`; every row but those of `empty` has a key."""
    mask = torch.ones(case.batch, case.length, dtype=torch.bool)
    if case.mask == "ragged":
        for row in range(1, case.batch):
            mask[row, 1 + (case.length * row) // (case.batch + 1) :] = False
    elif case.mask == "holes":
        mask = torch.rand(case.batch, case.length, generator=generator) > 0.4
        mask[:, case.length // 2] = True
    elif case.mask == "tail":
        mask[-1, :-1] = False
    elif case.mask == "empty":
        mask[-1] = False
    return mask


def make_inputs(case: Case) -> dict[str, torch.Tensor]:
    """The contract's inputs, by name."""
    generator = torch.Generator().manual_seed(1000 * case.length + case.size)
    dtype = getattr(torch, case.dtype)

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * case.spread).to(dtype)

    slots = slot_table(case.span, case.buckets, case.max_position)
    rows = 2 * case.span
    mask = make_mask(case, generator)
    return {
        "qkv": normal(case.batch, case.length, 3 * case.heads * case.size),
        "pos_key": normal(case.heads, rows if case.c2p else 1, case.size),
        "pos_query": normal(case.heads, rows if case.p2c else 1, case.size),
        "slots": slots,
        "mask": mask.int() if case.mask_dtype == "int32" else mask,
    }


def by_oracle(case: Case, inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """The oracle's answer when it computes in `dtype`."""
    given = {name: inputs[name].to(dtype) for name in ("qkv", "pos_key", "pos_query")}
    return disentangled_attention(
        **given,
        slots=inputs["slots"],
        mask=inputs["mask"],
        num_heads=case.heads,
        scale=case.spec.scale,
        c2p=case.c2p,
        p2c=case.p2c,
        queries=case.queries,
    )


def start_interpreter() -> None:
    """First call of a process: Triton interprets from now on."""
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    _multiply_bfloat16()


def _multiply_bfloat16() -> None:
    """The interpreter keeps bfloat16 as bits, and multiplies matrices of the bits as integers.

    Their values are multiplied here, in fp32, as the hardware does.
    """
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    inherited = InterpreterBuilder.create_dot

    def widened(operand: TensorHandle) -> TensorHandle:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: Any) -> Any:
        return inherited(self, widened(a), widened(b), *rest)

    InterpreterBuilder.create_dot = create_dot


def interpret(case: Case) -> tuple[np.ndarray, list[str]]:
    """Run the kernel on the case's tensors, each between guards.

    Returns:
        The output buffer with its guards, fp32, and the names of buffers that were changed though
        they are inputs.
    """
    from plugins.disentangled_attention.kernel import disentangled_attention_kernel as kernel

    inputs = make_inputs(case)
    # What lies outside would show: NaN in sums, slots far outside of the tables, keys to attend to.
    guards = {"qkv": math.nan, "pos_key": math.nan, "pos_query": math.nan, "slots": 1 << 24}
    guarded = {name: Guarded.around(tensor, guards.get(name, 1)) for name, tensor in inputs.items()}
    before = {name: held.whole.clone() for name, held in guarded.items()}
    shape = (case.batch, case.rows, case.heads * case.size)
    context = Guarded.around(torch.full(shape, UNTOUCHED, dtype=inputs["qkv"].dtype), UNTOUCHED)
    given = {name: held.tensor for name, held in guarded.items()}
    if case.mask_dtype == "bool":
        given["mask"] = given["mask"].view(torch.int8)
    tables = (given["pos_key"].shape[1], given["pos_query"].shape[1])
    kernel[(grid(case.batch, case.rows, case.spec, case.tile),)](
        *given.values(),
        *scalars(case.length, *tables, len(given["slots"])),
        context.tensor,
        **constants(case.spec, case.tile),
    )
    changed = [
        name
        for name, held in guarded.items()
        if not torch.equal(held.whole.nan_to_num(7.0), before[name].nan_to_num(7.0))
    ]
    return context.whole.float().numpy(), changed
