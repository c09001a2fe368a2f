"""The attention kernel on a GPU: real sizes, all types, the driver alone, models, graphs, memory.

Run with `pytest -m gpu tests/gpu/test_attention_kernel.py`. Nothing has run it yet: CI has no GPU.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.attention_cases import GUARD, UNTOUCHED, Case, Guarded, by_oracle, make_inputs
from support.driver import DriverKernel
from support.random_models import random_config, random_inputs, random_model, valid_outputs

from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import make_model
from exporter.model.task import Task
from plugins.disentangled_attention.launch import TileConfig, grid, scalars
from plugins.disentangled_attention.ptx import compile_ptx
from plugins.disentangled_attention.torch_operator import disentangled_attention, launch
from plugins.disentangled_attention.tuning import tile_candidates, tile_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU"),
]

ANY = TileConfig(16, 16, 16, 4, 1)
"""Cases need one; the tests choose their own."""
V3 = Case(0, ANY, size=64, heads=12, span=256, buckets=256, max_position=512)
SHAPES = [(1, 1), (1, 2), (3, 63), (16, 128), (4, 511), (2, 2048), (1, 8192)]
DTYPES = ["float32", "float16", "bfloat16"]


def capability() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def on_gpu(case: Case) -> dict[str, torch.Tensor]:
    return {name: tensor.cuda() for name, tensor in make_inputs(case).items()}


def exact(case: Case, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The oracle in double precision, a head at a time: scores of 8,192 tokens are 0.5 GB each."""
    size, heads = case.size, case.heads
    qkv = inputs["qkv"].view(case.batch, case.length, 3, heads, size)
    one = replace(case, heads=1)
    parts = []
    for head in range(heads):
        given = {
            **inputs,
            "qkv": qkv[:, :, :, head].reshape(case.batch, case.length, 3 * size),
            "pos_key": inputs["pos_key"][head : head + 1],
            "pos_query": inputs["pos_query"][head : head + 1],
        }
        parts.append(by_oracle(one, given, torch.float64))
    return torch.cat(parts, -1)


def check(case: Case, inputs: dict[str, torch.Tensor], ours: torch.Tensor) -> None:
    """fp32 to 1e-5; narrow types within twice the error of PyTorch in the same type."""
    valid = inputs["mask"].bool()
    assert torch.isfinite(ours).all()
    wanted = exact(case, inputs)[valid]
    error = (ours[valid].double() - wanted).abs().max()
    if case.dtype == "float32":
        assert error < 1e-5 * wanted.abs().max()
        return
    pytorch = by_oracle(case, inputs, getattr(torch, case.dtype))[valid].double()
    assert error <= 2 * (pytorch - wanted).abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_real_sizes(batch: int, length: int, dtype: str) -> None:
    case = replace(V3, batch=batch, length=length, dtype=dtype)
    if length > 2048:
        case = replace(case, heads=2)
    inputs = on_gpu(case)
    given = {"num_heads": case.heads, "scale": case.spec.scale, "c2p": True, "p2c": True}
    check(case, inputs, disentangled_attention(**inputs, **given))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [20, 32, 64, 80, 128])
@pytest.mark.parametrize(
    ("c2p", "p2c"), [(True, True), (True, False), (False, True), (False, False)]
)
def test_every_tile_of_the_table(dtype: str, size: int, c2p: bool, p2c: bool) -> None:
    case = replace(V3, batch=2, length=1300, heads=3, size=size, dtype=dtype, c2p=c2p, p2c=p2c)
    inputs = on_gpu(case)
    for tile in tile_candidates(case.spec, capability()):
        check(case, inputs, launch(**inputs, spec=case.spec, tile=tile))


@pytest.mark.parametrize("mask", ["whole", "ragged", "holes", "tail", "empty"])
@pytest.mark.parametrize("mask_dtype", ["int32", "bool"])
def test_masks(mask: str, mask_dtype: str) -> None:
    case = replace(V3, batch=3, length=1100, heads=2, mask=mask, mask_dtype=mask_dtype)
    inputs = on_gpu(case)
    check(case, inputs, launch(**inputs, spec=case.spec, tile=tile_for(case.spec, capability(), 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 77, 600])
def test_the_stripped_ptx_through_the_driver(dtype: str, length: int) -> None:
    """What TensorRT launches: PTX text, its own parameters only, buffers between guards."""
    case = replace(V3, batch=2, length=length, dtype=dtype, mask_dtype="bool")
    inputs = on_gpu(case)
    for tile in tile_candidates(case.spec, capability()):
        kernel = DriverKernel(compile_ptx(case.spec, tile, capability()))
        shape = (case.batch, length, case.heads * case.size)
        held = Guarded.around(
            torch.full(shape, UNTOUCHED, dtype=inputs["qkv"].dtype, device="cuda"), UNTOUCHED
        )
        kernel.launch(
            list(inputs.values()),
            scalars(
                length,
                *(inputs[n].shape[1] for n in ("pos_key", "pos_query")),
                len(inputs["slots"]),
            ),
            held.tensor,
            grid(case.batch, length, case.spec, tile),
        )
        torch.cuda.synchronize()
        outside = held.whole[0].clone()
        assert (held.whole[:GUARD] == outside).all()
        assert (held.whole[-GUARD:] == outside).all()
        assert (held.tensor != outside).all()
        check(case, inputs, held.tensor)


@pytest.mark.parametrize("seed", range(12))
def test_the_fused_model_equals_eager(seed: int, tmp_path) -> None:
    fields, task = random_config(seed)
    random_model(fields, task, seed).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    inputs = random_inputs(fields, task, 3, 29, seed)
    with torch.no_grad():
        wanted = load_model(checkpoint)(**inputs)
        fused = load_model(checkpoint, attention="fused").cuda()
        ours = fused(**{name: tensor.cuda() for name, tensor in inputs.items()})
    mask = inputs["attention_mask"]
    pairs = zip(
        valid_outputs(task, tuple(value.cpu() for value in ours), mask),
        valid_outputs(task, wanted, mask),
        strict=True,
    )
    for one, other in pairs:
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


def test_torch_compile_and_a_cuda_graph_give_the_same_model() -> None:
    fields, task = random_config(3)
    config = DebertaConfig.from_dict({"model_type": "deberta-v2", **fields})
    torch.manual_seed(0)
    model = make_model(config, Task(task), attention="fused").eval().cuda().requires_grad_(False)
    first, second = (
        {name: t.cuda() for name, t in random_inputs(fields, task, 2, 24, seed).items()}
        for seed in (1, 2)
    )
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True)
        for given in (first, second):
            for one, other in zip(compiled(**given), model(**given), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        graph, held = torch.cuda.CUDAGraph(), {name: t.clone() for name, t in first.items()}
        with torch.cuda.graph(graph):
            outputs = model(**held)
        for name, tensor in second.items():
            held[name].copy_(tensor)
        graph.replay()
        for one, other in zip(outputs, model(**second), strict=True):
            assert torch.equal(one, other)


def test_nothing_of_size_s_squared_is_allocated() -> None:
    case = replace(V3, batch=2, length=8192, dtype="bfloat16", mask="whole")
    inputs = on_gpu(case)
    tile = tile_for(case.spec, capability(), case.length)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    context = launch(**inputs, spec=case.spec, tile=tile)
    torch.cuda.synchronize()
    beyond = torch.cuda.max_memory_allocated() - before - context.numel() * context.element_size()
    assert beyond <= math.floor(0.1 * 2**30)
