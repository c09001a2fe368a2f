"""The kernel's PTX: parameters, versions, and what the assembler says of it."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import pytest

from plugins.disentangled_attention.assembler import assemble, find_assembler
from plugins.disentangled_attention.launch import KernelSpec
from plugins.disentangled_attention.ptx import (
    PARAMETERS,
    CompiledKernel,
    KernelError,
    compile_ptx,
    strip_hidden_parameters,
)
from plugins.disentangled_attention.tuning import tile_candidates

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
    spec = KernelSpec(12, 64, 0.07, dtype=dtype, mask_dtype="bool")
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


def test_the_entry_takes_inputs_scalars_output() -> None:
    kernel = compiled(80, "float16")
    assert kernel.parameters == PARAMETERS
    types = [line.split()[1] for line in entry_of(kernel.ptx)]
    assert types == [".u64"] * 5 + [".u32"] * 4 + [".u64"]
    assert f".visible .entry {kernel.entry}(" in kernel.ptx
    assert (kernel.target, kernel.ptx_version) == ("sm_80", "8.0")
    assert f".reqntid {kernel.threads}" in kernel.ptx


def test_the_assembler_takes_it(assembler: Path) -> None:
    kernel = compiled(80, "float16")
    assert 0 < assemble(kernel.ptx, kernel.target, assembler).registers <= 255
    with pytest.raises(ValueError, match="refuses the PTX for sm_80"):
        assemble(kernel.ptx.replace("ld.param", "ld.nonsense"), kernel.target, assembler)
