"""The kernel's PTX: parameters, versions, and what the assembler says of it."""

from __future__ import annotations

import csv
import itertools
import math
import re
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmarks.ptxas import SHARED_LIMITS, assemble, directive, find_assembler
from plugins.disentangled_attention.launch import DTYPES, KernelSpec, TileConfig
from plugins.disentangled_attention.ptx import (
    PARAMETERS,
    PTX_VERSIONS,
    CompiledKernel,
    KernelError,
    compile_ptx,
    strip_hidden_parameters,
)
from plugins.disentangled_attention.tuning import CAPABILITIES, tile_candidates

pytest.importorskip("triton")

ENTRY = """.version 8.0
.target sm_80
.visible .entry attend(
\t.param .u64 .ptr .global .align 1 attend_param_0,
\t.param .u32 attend_param_1,
\t.param .u64 .ptr .global .align 1 attend_param_2
)
.reqntid 128
{
\tld.param.b64 %rd1, [attend_param_0];
\tld.param.b32 %r1, [attend_param_1];
READ\tret;
}
"""
BARE = ENTRY.replace("READ", "")


@pytest.fixture(scope="module")
def assembler() -> Path:
    found = find_assembler()
    if found is None:
        pytest.skip("no ptxas: not on the path, in a CUDA toolkit or in the Triton wheel")
    return found


@lru_cache
def compiled(capability: int, dtype: str) -> CompiledKernel:
    spec = KernelSpec(12, 64, 1 / math.sqrt(3 * 64), dtype=dtype)
    return compile_ptx(spec, tile_candidates(spec, capability)[0], capability)


def entry_of(ptx: str) -> list[str]:
    found = re.search(r"\.entry \w+\((.*?)\)", ptx, re.DOTALL)
    assert found is not None
    return [line.strip() for line in found[1].split(",")]


def test_parameters_nobody_reads_are_removed() -> None:
    stripped, name = strip_hidden_parameters(BARE, 2)
    assert name == "attend"
    assert [line.split()[-1] for line in entry_of(stripped)] == ["attend_param_0", "attend_param_1"]
    assert stripped.split("(")[0] == BARE.split("(")[0]
    assert stripped.split(")", 1)[1] == BARE.split(")", 1)[1]


def test_a_hidden_parameter_that_is_read_is_an_error() -> None:
    read = ENTRY.replace("READ", "\tld.param.b64 %rd2, [attend_param_2];\n")
    with pytest.raises(KernelError, match="reads attend_param_2"):
        strip_hidden_parameters(read, 2)
    assert strip_hidden_parameters(read, 3)[1] == "attend"


def test_another_number_of_entries_or_parameters_is_an_error() -> None:
    with pytest.raises(KernelError, match="3 parameters; expected 4"):
        strip_hidden_parameters(BARE, 4)
    with pytest.raises(KernelError, match="2 entries"):
        strip_hidden_parameters(BARE + BARE, 2)
    with pytest.raises(KernelError, match="0 entries"):
        strip_hidden_parameters("", 2)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_kernel_for_each_architecture(capability: int, assembler: Path) -> None:
    """Parameters as TensorRT passes them, valid for `ptxas`, no spills, within the GPU's limits."""
    kernel = compiled(capability, "float16")
    assert len(entry_of(kernel.ptx)) == len(PARAMETERS)
    types = [line.split()[1] for line in entry_of(kernel.ptx)]
    assert types == [".u64"] * 5 + [".u32"] * 4 + [".u64"]
    assert f".visible .entry {kernel.entry}(" in kernel.ptx
    assert f".reqntid {kernel.threads}" in kernel.ptx
    assert re.fullmatch(rf"sm_{capability}a?", directive(kernel.ptx, "target"))
    assert float(directive(kernel.ptx, "version")) == PTX_VERSIONS[capability] / 10
    found = assemble(kernel.ptx, assembler)
    assert found.registers * kernel.threads <= 65536
    assert kernel.shared_bytes <= SHARED_LIMITS[capability]
    row = recorded()[capability, "float16", 64][0]
    if version("triton") == row["triton"]:  # the tiles were chosen with this compiler
        assert found.spill_bytes == 0
        assert kernel.shared_bytes == int(row["shared_bytes"])
        if found.assembler == row["ptxas"]:
            assert found.registers == int(row["registers"])


def test_the_assembler_refuses_what_is_not_ptx(assembler: Path) -> None:
    kernel = compiled(80, "float16")
    with pytest.raises(ValueError, match="refuses the PTX for sm_80"):
        assemble(kernel.ptx.replace("ld.param", "ld.nonsense"), assembler)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_resources_are_recorded_for_every_configuration(capability: int) -> None:
    """`benchmarks/kernel_resources.py` was run with the tuning table that is here."""
    for dtype, size in itertools.product(DTYPES, (32, 64, 128)):
        spec = KernelSpec(12, size, 1 / math.sqrt(3 * size), dtype=dtype)
        rows = recorded()[capability, dtype, size]
        names = ("block_m", "block_n", "far_n", "num_warps", "num_stages")
        tiles = tuple(TileConfig(*(int(row[name]) for name in names)) for row in rows)
        assert tiles == tile_candidates(spec, capability)
        for row in rows:
            assert int(row["registers"]) * 32 * int(row["num_warps"]) <= 65536
            assert int(row["shared_bytes"]) <= SHARED_LIMITS[capability]
            # Heads above 64 in fp32 spill in every tile (docs/attention-kernel.md).
            assert int(row["spill_bytes"]) == 0 or (dtype, size) == ("float32", 128)


@lru_cache
def recorded() -> dict[tuple[int, str, int], list[dict[str, str]]]:
    """Rows of the committed table, by capability, type and head size."""
    found: dict[tuple[int, str, int], list[dict[str, str]]] = {}
    path = Path(__file__).parents[3] / "benchmarks" / "results" / "kernel_resources.csv"
    with path.open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            key = (int(row["capability"]), row["dtype"], int(row["head_size"]))
            found.setdefault(key, []).append(row)
    return found
