"""The native attention of ONNX Runtime on one node: its library, compiled once, and calls of it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper

from plugins.disentangled_attention import contract
from plugins.disentangled_attention.oracle import disentangled_attention
from plugins.disentangled_attention.slots import slot_table
from plugins.onnxruntime_cpu.compile_library import LIBRARY, compile_library, source_hash
from plugins.onnxruntime_cpu.native_library import NativeLibrary, native_library

TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


@cache
def compiled() -> NativeLibrary:
    """The library of these sources: the installed one, or one that all processes share."""
    installed = native_library()
    if isinstance(installed, NativeLibrary):
        return installed
    path = Path(tempfile.gettempdir()) / f"deb-export-tests-{source_hash()}" / LIBRARY
    if not isinstance(native_library(path), NativeLibrary):
        compile_library(path)
    found = native_library(path)
    assert isinstance(found, NativeLibrary), found
    return found


@dataclass(frozen=True)
class NodeCase:
    """One call of the operator with random tensors."""

    batch: int = 2
    length: int = 33
    heads: int = 2
    size: int = 16
    c2p: bool = True
    p2c: bool = True
    span: int = 256
    buckets: int = 256
    max_position: int = 512
    mask: str = "ragged"
    """`whole`, `ragged`, `holes`, `tail` (one key, the last), `empty` (no key in the last text), or
    `wild` (holes, and a slot table of random numbers)."""
    mask_type: str = "int32"
    dtype: str = "float32"
    queries: int | None = None
    spread: float = 1.0
    seed: int = 0

    @property
    def scale(self) -> float:
        return float(np.float32((self.size * (1 + self.c2p + self.p2c)) ** -0.5))

    def tensors(self) -> dict[str, torch.Tensor]:
        """The contract's inputs, in fp32 that the type holds exactly."""
        generator = torch.Generator().manual_seed(self.seed)
        dtype = getattr(torch, self.dtype)

        def normal(*shape: int) -> torch.Tensor:
            values = torch.randn(shape, generator=generator) * self.spread
            return values.to(dtype).float()

        slots, rows = slot_table(self.span, self.buckets, self.max_position), 2 * self.span
        if self.mask == "wild":
            slots = torch.randint(0, rows, (2 * 77 + 1,), generator=generator, dtype=torch.int32)
        mask = self._mask(generator)
        return {
            "qkv": normal(self.batch, self.length, 3 * self.heads * self.size),
            "pos_key": normal(self.heads, rows if self.c2p else 1, self.size),
            "pos_query": normal(self.heads, rows if self.p2c else 1, self.size),
            "slots": slots,
            "mask": mask if self.mask_type == "bool" else mask.int(),
        }

    def _mask(self, generator: torch.Generator) -> torch.Tensor:
        mask = torch.ones(self.batch, self.length, dtype=torch.bool)
        if self.mask == "ragged":
            for row in range(1, self.batch):
                mask[row, 1 + self.length * row // (self.batch + 1) :] = False
        elif self.mask in ("holes", "wild"):
            mask = torch.rand(self.batch, self.length, generator=generator) > 0.4
            mask[:, self.length // 2] = True
        elif self.mask == "tail":
            mask[-1, :-1] = False
        elif self.mask == "empty":
            mask[-1] = False
        return mask


def expected(case: NodeCase, tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """The oracle's answer in double precision."""
    given = {name: tensors[name].double() for name in ("qkv", "pos_key", "pos_query")}
    context = disentangled_attention(
        **given,
        slots=tensors["slots"],
        mask=tensors["mask"],
        num_heads=case.heads,
        scale=case.scale,
        c2p=case.c2p,
        p2c=case.p2c,
        queries=case.queries,
    )
    return context.numpy()


def node_model(
    dtype: str = "float32",
    mask_type: str = "int32",
    queries: int | None = None,
    **attributes: float,
) -> bytes:
    """A model of one node, whose inputs and output are fp32 and are cast to `dtype` around it."""
    types = dict.fromkeys(contract.INPUTS, TensorProto.FLOAT)
    types["slots"] = TensorProto.INT32
    types["mask"] = {"int32": TensorProto.INT32, "bool": TensorProto.BOOL}.get(
        mask_type, TensorProto.INT64
    )
    floats = [name for name, kind in types.items() if kind == TensorProto.FLOAT]
    nodes = [helper.make_node("Cast", [n], [f"{n}.cast"], to=TYPES[dtype]) for n in floats]
    inputs = [f"{name}.cast" if name in floats else name for name in types]
    nodes.append(
        helper.make_node(
            contract.op_type_of(queries), inputs, ["made"], domain=contract.DOMAIN, **attributes
        )
    )
    nodes.append(helper.make_node("Cast", ["made"], ["context"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "node",
        [
            helper.make_tensor_value_info(
                name, kind, [f"{name}{axis}" for axis in range(contract.RANKS[name])]
            )
            for name, kind in types.items()
        ],
        [helper.make_tensor_value_info("context", TensorProto.FLOAT, ["B", "S", "E"])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(contract.DOMAIN, contract.VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def open_node(content: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    """A session with the native operator."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(compiled().path))
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run_node(case: NodeCase, tensors: dict[str, torch.Tensor], threads: int = 1) -> np.ndarray:
    """The native operator's answer."""
    content = node_model(
        case.dtype,
        case.mask_type,
        case.queries,
        num_heads=case.heads,
        scale=case.scale,
        c2p=int(case.c2p),
        p2c=int(case.p2c),
    )
    feeds = {name: tensor.numpy() for name, tensor in tensors.items()}
    (context,) = open_node(content, threads).run(None, feeds)
    return np.asarray(context)
