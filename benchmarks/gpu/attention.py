"""Attention layers on a GPU: correctness first, then times in turn, then rows and a table.

    python -m benchmarks.gpu.attention
    python -m benchmarks.gpu.attention --lengths 512 2048 --dtype float16 --rounds 50

Shapes: `B * S` = 16,384 tokens for each length, and batch 1; 12 heads of 64, 512 slots. Contenders:
`transformers` eager, PyTorch's `scaled_dot_product_attention` with the position terms as a bias in
memory, `flashdeberta` and `disentangled-flash` where installed, ours; projections included. Two
more rows time our kernel alone, on projections that are there: with the configuration of the tuning
table, and with the fastest of its candidates on this GPU. Operations are those the mathematics
needs (`counts.py`); "of matmul" is their rate by that of an 8192 x 8192 product here.

Exit code 1 when ours is wrong, 3 without a GPU. No GPU has run it so far.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.contenders import (
    MODELS,
    OURS,
    Call,
    layer_contenders,
    missing_peers,
    model_fields,
    random_layer,
)
from benchmarks.gpu.counts import Shape, needed_operations
from benchmarks.gpu.timing import (
    NO_GPU,
    Failure,
    Prepared,
    Row,
    append_rows,
    interleaved,
    make_row,
    matmul_rate,
    missing_gpu,
    prepare,
    table,
)
from exporter.deberta.modeling import SelfAttention
from plugins.disentangled_attention.slots import slot_table
from plugins.disentangled_attention.torch_operator import launch, operator_spec
from plugins.disentangled_attention.tuning import tile_candidates, tile_for

RESULTS = Path(__file__).parents[1] / "results" / "gpu_attention.csv"
LIMITS = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 6e-2}
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
KERNEL, BEST = "ours, kernel alone", "ours, best tile alone"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384, help="B * S")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--no-batch-one", action="store_true", help="leave batch 1 out")
    parser.add_argument("--dtype", choices=sorted(LIMITS), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file to append to")
    parsed = parser.parse_args(arguments)
    if min(parsed.lengths) < 1 or parsed.rounds < 1:
        parser.error("lengths and rounds must be at least 1")
    if parsed.tokens < max(parsed.lengths):
        parser.error(f"--tokens {parsed.tokens} is less than a sequence of {max(parsed.lengths)}")
    return parsed


def shapes(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Batch and length of each measurement, without repetition."""
    made = [(arguments.tokens // length, length) for length in arguments.lengths]
    if not arguments.no_batch_one:
        made += [(1, length) for length in arguments.lengths]
    return list(dict.fromkeys(made))


def reference(
    layer: SelfAttention,
    relative: torch.Tensor,
    slots: torch.Tensor,
    hidden: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """What a layer gives in fp32 with fp32 weights, one sequence at a time: S x S is large."""
    with torch.inference_mode():
        return torch.cat(
            [
                layer(hidden[row : row + 1].float(), relative, slots, mask[row : row + 1].int())
                for row in range(len(hidden))
            ]
        )


def kernels_alone(
    layer: SelfAttention,
    relative: torch.Tensor,
    slots: torch.Tensor,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    rounds: int,
    wanted: torch.Tensor,
    limit: float,
) -> dict[str, Prepared]:
    """Our kernel on finished projections: as the tuning table cuts it, and as is fastest here."""
    with torch.inference_mode():
        projections = (layer.query_proj, layer.key_proj, layer.value_proj)
        qkv = torch.cat([projection(hidden) for projection in projections], -1)
        tables = [table.contiguous() for table in layer.project_positions(relative)]
    config, keys = layer.config, mask.int()
    spec = operator_spec(
        qkv, *tables, slots, keys,
        num_heads=config.num_attention_heads, scale=config.attention_scale, c2p=True, p2c=True,
    )  # fmt: skip
    major, minor = torch.cuda.get_device_capability()
    usual = tile_for(spec, 10 * major + minor, hidden.shape[1])
    made = {}
    for tile in dict.fromkeys((usual, *tile_candidates(spec, 10 * major + minor))):
        made[tile] = prepare(
            lambda tile=tile: launch(qkv, *tables, slots, keys, spec=spec, tile=tile),
            wanted, mask.bool(), limit,
        )  # fmt: skip
    times = interleaved({str(tile): one for tile, one in made.items()}, max(3, rounds // 5))
    best = min(made, key=lambda tile: sorted(times[str(tile)])[len(times[str(tile)]) // 2])
    print(f"  fastest tile of {len(made)}: {best}")
    return {KERNEL: made[usual], BEST: made[best]}


def measure(
    shape: tuple[int, int], arguments: argparse.Namespace, rate: float
) -> tuple[list[Row], list[Failure]]:
    """Rows of one shape, and what could not be measured."""
    batch, length = shape
    dtype = getattr(torch, arguments.dtype)
    fields = model_fields(MODELS["v3-base"])
    layer, relative = (part.cuda() for part in random_layer(fields))
    slots = slot_table(256, 256, 512).cuda()
    generator = torch.Generator("cuda").manual_seed(length)
    width = fields["hidden_size"]
    hidden = torch.randn(batch, length, width, generator=generator, device="cuda").to(dtype)
    mask = torch.ones(batch, length, dtype=torch.int64, device="cuda")
    limit = LIMITS[arguments.dtype]
    wanted = reference(layer, relative, slots, hidden, mask)
    layer, relative = layer.to(dtype), relative.to(dtype)

    ready: dict[str, Prepared] = {}
    failures: list[Failure] = []
    for name, make in layer_contenders(layer, relative, slots, fields).items():
        try:
            call: Call = make()
            ready[name] = prepare(lambda call=call: call(hidden, mask), wanted, mask.bool(), limit)
        except Exception as error:
            failures.append(Failure(name, f"B {batch}, S {length}: {error}".splitlines()[0]))
        torch.cuda.empty_cache()
    try:
        ready |= kernels_alone(
            layer, relative, slots, hidden, mask, arguments.rounds, wanted, limit
        )
    except Exception as error:
        failures.append(Failure(KERNEL, f"B {batch}, S {length}: {error}".splitlines()[0]))
    operations = needed_operations(Shape(batch, length))
    times = interleaved(ready, arguments.rounds) if ready else {}
    rows = [
        make_row(
            name, ready[name], times[name], scope="operator" if "alone" in name else "layer",
            dtype=arguments.dtype, shape=shape, operations=operations, rate=rate,
        )
        for name in ready
    ]  # fmt: skip
    return rows, failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; returns the exit code."""
    parsed = parse(arguments)
    problem = missing_gpu()
    if problem is not None:
        print(problem, file=sys.stderr)
        return NO_GPU
    for name, reason in missing_peers().items():
        print(f"{name}: {reason}")
    # The reference must not round its products.
    torch.backends.cuda.matmul.allow_tf32 = False
    rate = matmul_rate(getattr(torch, parsed.dtype))
    print(f"{torch.cuda.get_device_name()}: product of 8192 x 8192 {rate / 1e12:.0f} Top/s")
    rows: list[Row] = []
    failures: list[Failure] = []
    for shape in shapes(parsed):
        print(f"B {shape[0]}, S {shape[1]}")
        more, failed = measure(shape, parsed, rate)
        append_rows(more, parsed.results)
        rows += more
        failures += failed
    for failure in failures:
        print(f"{failure.contender}: {failure.reason}", file=sys.stderr)
    print(table(rows, OURS))
    return int(any(failure.contender in (OURS, KERNEL) for failure in failures))


if __name__ == "__main__":
    sys.exit(main())
