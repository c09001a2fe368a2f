"""Whole DeBERTa-v3 models on a GPU: correctness first, then times in turn, then rows and a table.

    python -m benchmarks.gpu.model
    python -m benchmarks.gpu.model --model v3-large --shapes 1x128 32x128 8x512

Contenders: `transformers` eager and under `torch.compile`, `flashdeberta` and `disentangled-flash`
where installed, ours with `attention="fused"`, as it is and compiled. Random weights, the same in
all; every second sequence is two thirds full. Exit code 1 when ours is wrong, 3 without a GPU. No
GPU has run it so far.
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
    missing_peers,
    model_contenders,
    model_fields,
    random_state,
)
from benchmarks.gpu.counts import Shape, needed_operations
from benchmarks.gpu.timing import (
    NO_GPU,
    Failure,
    Row,
    append_rows,
    interleaved,
    make_row,
    matmul_rate,
    missing_gpu,
    prepare,
    table,
)
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import make_model
from exporter.model.task import Task

RESULTS = Path(__file__).parents[1] / "results" / "gpu_model.csv"
# Of the hidden states' largest value, after all layers, in the type's own rounding.
LIMITS = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 0.2}


def shape(text: str) -> tuple[int, int]:
    """`8x512` as batch and length."""
    batch, _, length = text.partition("x")
    try:
        made = int(batch), int(length)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not BATCHxLENGTH") from None
    if min(made) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: both must be at least 1")
    return made


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=sorted(MODELS), nargs="+", default=sorted(MODELS))
    parser.add_argument(
        "--shapes", type=shape, nargs="+", default=[(1, 128), (32, 128), (8, 512), (2, 2048)]
    )
    parser.add_argument("--dtype", choices=sorted(LIMITS), default="float16")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file to append to")
    parsed = parser.parse_args(arguments)
    if parsed.rounds < 1:
        parser.error("rounds must be at least 1")
    return parsed


def model_operations(sizes: dict[str, int], batch: int, length: int) -> int:
    """Operations of a forward pass: projections, feed-forward, and attention as it is needed."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    dense = 2 * batch * length * width * (4 * width + 2 * inner)
    heads = sizes["num_attention_heads"]
    attention = needed_operations(Shape(batch, length, heads, width // heads))
    return sizes["num_hidden_layers"] * (dense + attention)


def inputs(batch: int, length: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, int64 `(B, S)` each, on the CPU."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(1, vocabulary, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::2, max(1, 2 * length // 3) :] = 0
    return ids, mask


def measure(
    name: str, given: tuple[int, int], arguments: argparse.Namespace, rate: float
) -> tuple[list[Row], list[Failure]]:
    """Rows of one model at one shape, and what could not be measured."""
    fields = model_fields(MODELS[name])
    state = random_state(fields)
    ids, mask = (tensor.cuda() for tensor in inputs(*given, fields["vocab_size"]))
    plain = make_model(DebertaConfig.from_dict(fields), Task.BASE).eval()
    plain.load_state_dict(state)
    plain = plain.cuda()
    with torch.inference_mode():
        wanted = torch.cat([plain(ids[i : i + 1], mask[i : i + 1])[0] for i in range(len(ids))])
    del plain

    dtype = getattr(torch, arguments.dtype)
    ready = {}
    failures = []
    for contender, make in model_contenders(fields, state, "cuda", dtype).items():
        try:
            call = make()
            ready[contender] = prepare(
                lambda call=call: call(ids, mask), wanted, mask.bool(), LIMITS[arguments.dtype]
            )
        except Exception as error:
            failures.append(Failure(contender, f"{name} {given}: {error}".splitlines()[0]))
        torch.cuda.empty_cache()
    times = interleaved(ready, arguments.rounds) if ready else {}
    operations = model_operations(MODELS[name], *given)
    rows = [
        make_row(
            contender, ready[contender], times[contender], scope=name, dtype=arguments.dtype,
            shape=given, operations=operations, rate=rate,
        )
        for contender in ready
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
    torch.backends.cuda.matmul.allow_tf32 = False
    rate = matmul_rate(getattr(torch, parsed.dtype))
    print(f"{torch.cuda.get_device_name()}: product of 8192 x 8192 {rate / 1e12:.0f} Top/s")
    tables: list[str] = []
    failures: list[Failure] = []
    for name in parsed.model:
        rows: list[Row] = []
        for given in parsed.shapes:
            print(f"{name}: B {given[0]}, S {given[1]}")
            more, failed = measure(name, given, parsed, rate)
            append_rows(more, parsed.results)
            rows += more
            failures += failed
        tables.append(f"{name}\n{table(rows, OURS)}")
    for failure in failures:
        print(f"{failure.contender}: {failure.reason}", file=sys.stderr)
    print("\n\n".join(tables))
    return int(any(failure.contender.startswith(OURS) for failure in failures))


if __name__ == "__main__":
    sys.exit(main())
