"""The PyTorch operator: its CPU side, its tracing, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.attention_cases import Case, by_oracle, make_inputs

from plugins.disentangled_attention.launch import TileConfig
from plugins.disentangled_attention.torch_operator import disentangled_attention, operator_spec

TILE = TileConfig(16, 16, 16, 4, 1)


def attributes(case: Case) -> dict[str, Any]:
    return {
        "num_heads": case.heads,
        "scale": case.spec.scale,
        "c2p": case.c2p,
        "p2c": case.p2c,
        "queries": case.queries,
    }


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("c2p", "p2c"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("queries", [None, 1])
def test_the_cpu_computes_the_oracle(dtype: str, c2p: bool, p2c: bool, queries: int | None) -> None:
    case = Case(23, TILE, dtype=dtype, c2p=c2p, p2c=p2c, queries=queries)
    inputs = make_inputs(case)
    wanted = by_oracle(case, inputs, getattr(torch, dtype))
    assert torch.equal(disentangled_attention(**inputs, **attributes(case)), wanted)


def test_what_the_kernel_is_compiled_for_is_read_from_the_tensors() -> None:
    for case in (Case(5, TILE), Case(5, TILE, dtype="bfloat16", mask_dtype="bool", p2c=False)):
        assert operator_spec(**make_inputs(case), **attributes(case)) == case.spec


@pytest.mark.parametrize("queries", [None, 1])
def test_pytorch_finds_the_operator_sound(queries: int | None) -> None:
    case = Case(7, TILE, queries=queries)
    torch.library.opcheck(
        torch.ops.deb_export.disentangled_attention.default,
        (*make_inputs(case).values(), *attributes(case).values()),
        test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
    )


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qkv", lambda t: t[0], "qkv has rank 2; it must be 3"),
        ("qkv", lambda t: t[..., :-1], r"qkv is 95 wide; it must be 3 \* 2 heads"),
        ("qkv", lambda t: t.double(), "pos_key is torch.float32 and qkv is torch.float64"),
        ("pos_query", lambda t: t[:1], r"pos_query is \(1, 16, 16\); it must be \(2, R, 16\)"),
        ("pos_key", lambda t: t.half(), "pos_key is torch.float16 and qkv is torch.float32"),
        ("slots", lambda t: t[1:], "it must be int32, 2"),
        ("slots", lambda t: t.long(), "slots is torch.int64"),
        ("mask", lambda t: t[:, 1:], r"mask is \(2, 6\); it must be \(2, 7\)"),
        ("mask", lambda t: t.float(), "mask is 'float32'; the kernel has int32 and bool"),
        ("mask", lambda t: t.to("meta"), "mask is on meta and qkv on cpu"),
    ],
)
def test_tensors_that_are_not_the_contracts_are_refused(
    name: str, change: Any, message: str
) -> None:
    case = Case(7, TILE)
    inputs = make_inputs(case)
    inputs[name] = change(inputs[name])
    with pytest.raises(ValueError, match=message):
        operator_spec(**inputs, **attributes(case))


def test_no_rows_are_refused() -> None:
    case = Case(7, TILE, queries=0)
    with pytest.raises(ValueError, match="queries is 0; it must be at least 1"):
        disentangled_attention(**make_inputs(case), **attributes(case))
