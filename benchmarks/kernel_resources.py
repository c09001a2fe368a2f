"""Registers, spills and shared memory of the attention kernel, by GPU, type and head size.

    python -m benchmarks.kernel_resources

Compiles every configuration of the tuning table for six architectures and assembles it with
`ptxas`; needs no GPU. Replaces `benchmarks/results/kernel_resources.csv`. With `--tile` it prints
the rows of one configuration instead, to try it:

    python -m benchmarks.kernel_resources --tile 64,64,64,4,2 --capabilities 80 90
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

from benchmarks.ptxas import SHARED_LIMITS, assemble, directive, find_assembler
from plugins.disentangled_attention.launch import DTYPES, KernelSpec, TileConfig
from plugins.disentangled_attention.ptx import compile_ptx
from plugins.disentangled_attention.tuning import CAPABILITIES, tile_candidates

RESULTS = Path(__file__).parent / "results" / "kernel_resources.csv"
HEAD_SIZES = (32, 64, 128)


@dataclass(frozen=True)
class Row:
    """What one kernel takes of a multiprocessor."""

    target: str
    capability: int
    dtype: str
    head_size: int
    block_m: int
    block_n: int
    far_n: int
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    shared_limit: int
    ptx_version: str
    triton: str
    ptxas: str


def spec_of(dtype: str, head_size: int) -> KernelSpec:
    """Twelve heads, both terms."""
    return KernelSpec(12, head_size, 1 / math.sqrt(3 * head_size), dtype=dtype)


def resources(case: tuple[int, str, int, TileConfig]) -> Row:
    """Compile and assemble one case: capability, type, head size, tiles.

    Raises:
        ValueError: `ptxas` refuses the PTX.
        FileNotFoundError: there is no `ptxas`.
    """
    capability, dtype, head_size, tile = case
    assembler = find_assembler()
    if assembler is None:
        raise FileNotFoundError(
            "no ptxas: not on the path, in a CUDA toolkit or in the Triton wheel"
        )
    kernel = compile_ptx(spec_of(dtype, head_size), tile, capability)
    found = assemble(kernel.ptx, assembler)
    return Row(
        directive(kernel.ptx, "target"), capability, dtype, head_size, **asdict(tile),
        registers=found.registers, spill_bytes=found.spill_bytes, shared_bytes=kernel.shared_bytes,
        shared_limit=SHARED_LIMITS[capability], ptx_version=directive(kernel.ptx, "version"),
        triton=version("triton"), ptxas=found.assembler,
    )  # fmt: skip


def cases(arguments: argparse.Namespace) -> list[tuple[int, str, int, TileConfig]]:
    """What to compile."""
    return [
        (capability, dtype, size, tile)
        for size in arguments.head_sizes
        for dtype in arguments.dtypes
        for capability in arguments.capabilities
        for tile in (
            [arguments.tile]
            if arguments.tile
            else tile_candidates(spec_of(dtype, size), capability)
        )
    ]


def tile_of(text: str) -> TileConfig:
    """`64,32,64,4,2` as a configuration."""
    try:
        return TileConfig(*map(int, text.split(",")))
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capabilities", type=int, nargs="+", default=CAPABILITIES)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES)
    parser.add_argument("--head-sizes", type=int, nargs="+", default=HEAD_SIZES)
    parser.add_argument("--tile", type=tile_of, help="rows,keys,far keys,warps,stages")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS, help="CSV file to write")
    parsed = parser.parse_args(arguments)
    rows: list[Row] = []
    with ProcessPoolExecutor(parsed.jobs) as pool:
        for row in pool.map(resources, cases(parsed)):
            rows.append(row)
            print(row, flush=True)
    if parsed.tile is None:
        rows.sort(key=lambda row: (row.capability, row.dtype, row.head_size))
        with parsed.results.open("w", newline="", encoding="utf-8") as stream:
            names = [field.name for field in fields(Row)]
            writer = csv.DictWriter(stream, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
