"""The operator as a quickly deployable TensorRT plugin, its kernel compiled ahead of time.

`register_plugin` makes `deb_export::DisentangledAttention`, and the operator of its first row,
known to TensorRT's plugin registry, with `tensorrt.plugin` (10.9 and newer). A parser then takes
the graph's nodes as these plugins, and the engine holds the kernel's PTX: it needs neither this
package nor Triton nor a plugin library.

Fixed when the engine is built: types, head count and size, scale, terms. Batch, length and table
sizes reach the kernel and its grid as expressions of the shapes. Tactics are tile configurations,
which TensorRT times on its GPU.

CI registers and instantiates it in TensorRT 11.4's bindings, with a stand-in for the builder. The
builder itself needs a GPU: nothing has run it yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import Any

from plugins.disentangled_attention import contract
from plugins.disentangled_attention.launch import (
    KernelSpec,
    TileConfig,
    grid,
    head_size_of,
    scalars,
)
from plugins.disentangled_attention.ptx import CompiledKernel, KernelError, compile_ptx
from plugins.disentangled_attention.tuning import tile_candidates, tile_for

ATTRIBUTE_TYPES = {"num_heads": int, "scale": float, "c2p": int, "p2c": int}

MOST_SHARED_BYTES = 48 << 10
"""Dynamic shared memory that every launch may have; more must be asked for, which TensorRT does not
promise to do for a plugin's kernel."""

# TensorRT's name of a type, in `DataType` and in a combination of types; what the kernel calls it.
_FLOATS = {"FLOAT": ("FP32", "float32"), "HALF": ("FP16", "float16"), "BF16": ("BF16", "bfloat16")}
_MASKS = {"INT32": ("INT32", "int32"), "BOOL": ("BOOL", "bool")}


def problem() -> str | None:
    """Why the plugin cannot be made with the software here; None when it can be."""
    missing = find_spec("triton") is None
    return 'Triton is not installed: pip install "deb-export[triton]"' if missing else None


def register_plugin(capability: int) -> None:
    """Register the plugins in this process, for engines of one GPU. Once in a process.

    `capability` is the compute capability that the kernel is compiled for, times ten, such as 89.
    PTX runs on later GPUs too, apart from that of 90 and 100. Raises ValueError for a GPU that the
    kernel does not run on, or a second registration; ImportError without TensorRT or Triton.
    """
    import tensorrt as trt
    import tensorrt.plugin as trtp
    import triton  # noqa: F401  # said here, not in the middle of a build

    if capability < 80:
        raise ValueError(f"compute capability {capability / 10:.1f}: the kernel needs 8.0 or newer")
    whole = AttentionPlugin(trt, trtp, capability)
    tensor, outputs = trtp.TensorDesc, {"outputs": tuple[trtp.TensorDesc]}
    tactics = list[trtp.AutoTuneCombination]
    made = tuple[str, str, trtp.KernelLaunchParams, trtp.SymExprs]
    more = {**outputs, "tactic": int}
    for op_type, queries in contract.QUERIES.items():
        attention, name = replace(whole, queries=queries), f"{contract.DOMAIN}::{op_type}"
        trtp.register(name)(_function(attention.describe, tensor, {}, tensor))
        trtp.autotune(name)(_function(attention.autotune, tensor, outputs, tactics))
        trtp.aot_impl(name)(_function(attention.implement, tensor, more, made))


def _function(
    method: Callable[..., Any], tensor: type, more: Mapping[str, Any], result: Any
) -> Callable[..., Any]:
    """A method of `AttentionPlugin` as a function of the contract's inputs and attributes.

    TensorRT reads the operator's interface from the function's signature. Behind the attributes it
    passes what `more` names: the outputs, which no method needs, and the tactic.
    """
    types = {**dict.fromkeys(contract.INPUTS, tensor), **ATTRIBUTE_TYPES, **more}
    kind = Parameter.POSITIONAL_OR_KEYWORD
    parameters = [Parameter(name, kind, annotation=known) for name, known in types.items()]
    signature = Signature(parameters, return_annotation=result)

    def function(*values: Any, **named: Any) -> Any:
        given = signature.bind(*values, **named).arguments
        operands = {name: given[name] for name in (*contract.INPUTS, *contract.ATTRIBUTES)}
        node = SimpleNamespace(**operands)
        return method(node, given["tactic"]) if "tactic" in more else method(node)

    function.__signature__ = signature  # type: ignore[attr-defined]
    return function


@dataclass(frozen=True)
class AttentionPlugin:
    """What TensorRT asks of a plugin, about a node: the contract's inputs and attributes by name.

    An input is a `tensorrt.plugin.TensorDesc`. `trt` and `trtp` are the modules `tensorrt` and
    `tensorrt.plugin`, `capability` is the compute capability that kernels are compiled for, times
    ten, `queries` are the leading rows computed, and `compile` keeps what it has made: every layer
    asks for the same kernels.
    """

    trt: Any
    trtp: Any
    capability: int
    queries: int | None = None
    compile: Callable[[KernelSpec, TileConfig, int], CompiledKernel] = field(
        default_factory=lambda: lru_cache(maxsize=64)(compile_ptx)
    )

    def describe(self, node: SimpleNamespace) -> Any:
        """The output, `(B, rows, H*D)` in the type of `qkv`; ValueError for a break of contract."""
        self._check(node)
        batch, length, width = node.qkv.shape_expr
        rows = self._rows(length)
        return self.trtp.from_shape_expr((batch, rows, width // 3), node.qkv.dtype)

    def autotune(self, node: SimpleNamespace) -> list[Any]:
        """The types, which the graph fixes, and the tactics worth timing: numbers from 1 up."""
        spec = self._spec(node)
        value = _FLOATS[node.qkv.dtype.name][0]
        mask = _MASKS[node.mask.dtype.name][0]
        types = f"{value}, {value}, {value}, INT32, {mask}, {value}"
        tactics = self.tactics(spec, self._rows(_longest(node.qkv.shape)))
        return [self.trtp.AutoTuneCombination(types, "LINEAR", list(tactics))]

    def implement(self, node: SimpleNamespace, tactic: int) -> tuple[str, str, Any, Any]:
        """Entry, PTX, launch parameters and the int32 arguments behind the inputs, for a tactic."""
        spec = self._spec(node)
        tile = self.tile(spec, tactic, self._rows(_longest(node.qkv.shape)))
        kernel = self.compile(spec, tile, self.capability)
        batch, length, _ = node.qkv.shape_expr
        launch = self.trtp.KernelLaunchParams()
        launch.grid_x = grid(batch, self._rows(length), spec, tile)
        launch.block_x = kernel.threads
        launch.shared_mem = kernel.shared_bytes
        tables = (node.pos_key.shape_expr[1], node.pos_query.shape_expr[1])
        values = scalars(length, *tables, node.slots.shape_expr[0])
        extra = self.trtp.SymIntExprs(len(values))
        for index, value in enumerate(values):
            extra[index] = self.trtp.SymInt32(value)
        return kernel.entry, kernel.ptx, launch, extra

    def tactics(self, spec: KernelSpec, longest: int) -> Sequence[int]:
        """Numbers of the tile configurations to time for up to `longest` rows.

        Raises KernelError when none of them can be launched.
        """
        candidates = tile_candidates(spec, self.capability)
        able = [
            number
            for number, tile in enumerate(candidates, 1)
            if self.compile(spec, tile, self.capability).shared_bytes <= MOST_SHARED_BYTES
        ]
        if not able:
            raise KernelError(f"no tile configuration for {spec} fits in shared memory")
        # Rows of a tile beyond the longest are work for nothing.
        rows = max(16, 1 << (longest - 1).bit_length())
        short = [number for number in able if candidates[number - 1].block_m <= rows]
        return short or able[-1:]

    def tile(self, spec: KernelSpec, tactic: int, longest: int) -> TileConfig:
        """The tile configuration of a tactic, the usual one for 0, TensorRT's default.

        Raises ValueError when there is no such tactic.
        """
        candidates = tile_candidates(spec, self.capability)
        if tactic == 0:
            return tile_for(spec, self.capability, longest)
        if not 0 < tactic <= len(candidates):
            raise ValueError(f"tactic {tactic}: there are {len(candidates)}")
        return candidates[tactic - 1]

    def _rows(self, length: Any) -> Any:
        """How many rows of so many tokens are computed."""
        return length if self.queries is None else self.queries

    def _check(self, node: SimpleNamespace) -> None:
        operator = contract.op_type_of(self.queries)
        for name, rank in contract.RANKS.items():
            found = len(getattr(node, name).shape_expr)
            if found != rank:
                raise ValueError(f"{operator}: {name} has rank {found}; it must be {rank}")
        types = {name: getattr(node, name).dtype.name for name in contract.RANKS}
        for name in ("pos_key", "pos_query"):
            if types[name] != types["qkv"]:
                both = f"{name} is {types[name]} and qkv is {types['qkv']}"
                raise ValueError(f"{operator}: {both}; they must have one type")
        for name, known in (("qkv", _FLOATS), ("slots", ("INT32",)), ("mask", _MASKS)):
            if types[name] not in known:
                wanted = " or ".join(known)
                raise ValueError(f"{operator}: {name} is {types[name]}; it must be {wanted}")
        if node.num_heads < 1:
            raise ValueError(f"{operator}: num_heads is {node.num_heads}")
        width = node.qkv.shape_expr[2]
        # Sizes are known only where TensorRT computes shapes.
        if not width.is_fake and width.is_constant:
            head_size_of(width.constant_value(), node.num_heads)

    def _spec(self, node: SimpleNamespace) -> KernelSpec:
        """What the kernel is compiled for; sizes are known here."""
        size = head_size_of(node.qkv.shape[2], node.num_heads)
        dtype, mask = _FLOATS[node.qkv.dtype.name][1], _MASKS[node.mask.dtype.name][1]
        terms = (bool(node.c2p), bool(node.p2c))
        return KernelSpec(node.num_heads, size, node.scale, *terms, dtype, mask, self.queries)


def _longest(shape: Any) -> int:
    """The largest length that a shape of `qkv` may have."""
    return int(shape.max[1] if shape.is_dynamic else shape[1])
