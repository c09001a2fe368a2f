"""The attention plugin in TensorRT 11.4's registry, built as the builder would, with stand-ins.

Registry, creator, plugin and descriptions are TensorRT's. What stands in for the builder is its
arithmetic on shapes: expressions here are numbers, so that launches can be compared with numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest
import tensorrt as trt

pytest.importorskip("triton", reason="Triton is not installed")

import tensorrt.plugin as trtp

from exporter.artifact.engine_record import EngineOptions
from exporter.engine import cuda, worker
from plugins.disentangled_attention import contract, tensorrt_plugin
from plugins.disentangled_attention.launch import KernelSpec, TileConfig
from plugins.disentangled_attention.ptx import CompiledKernel
from plugins.disentangled_attention.tensorrt_plugin import (
    MOST_SHARED_BYTES,
    AttentionPlugin,
    register_plugin,
)
from plugins.disentangled_attention.tuning import tile_candidates

HEADS, HEAD, SLOTS, TABLE = 3, 16, 12, 9
WIDTH = 3 * HEADS * HEAD
SCALE = 0.1443375673
Half = trt.DataType.HALF
TYPES = {
    "qkv": Half,
    "pos_key": Half,
    "pos_query": Half,
    "slots": trt.DataType.INT32,
    "mask": trt.DataType.INT32,
}
RANKS = [3, 3, 3, 1, 2]


class Number:
    """An expression that knows its value, also where TensorRT would not yet."""

    def __init__(self, value: int, constant: bool) -> None:
        self.value, self.constant = value, constant

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        assert self.constant, "TensorRT does not know this yet"
        return self.value


RULES: dict[Any, Callable[[int, int], int]] = {
    trt.DimensionOperation.SUM: lambda a, b: a + b,
    trt.DimensionOperation.SUB: lambda a, b: a - b,
    trt.DimensionOperation.PROD: lambda a, b: a * b,
    trt.DimensionOperation.FLOOR_DIV: lambda a, b: a // b,
    trt.DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
}


class Expressions:
    """Computes what the builder would keep as an expression."""

    def constant(self, value: int) -> Number:
        return Number(value, True)

    def operation(self, kind: Any, first: Number, second: Number) -> Number:
        value = RULES[kind](first.value, second.value)
        return Number(value, first.constant and second.constant)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """Registered as the process that builds engines does it, for a GPU that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "find_gpu", lambda: cuda.Gpu("Stand-in", 89))
        worker._register_plugin(EngineOptions())
        yield


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Expressions]:
    """The builder's part of computing shapes."""
    monkeypatch.setattr(trt, "IDimensionExpr", Number)
    monkeypatch.setattr(trt, "DimsExprs", lambda length: [None] * length)
    monkeypatch.setattr(trtp.SymInt32, "__call__", lambda self: self._expr.value)
    yield Expressions()


def create(op_type: str = contract.OP_TYPE, **fields: Any) -> Any:
    """A plugin from the registry, with fields as the ONNX parser passes a node's attributes."""
    given = {"num_heads": HEADS, "scale": SCALE, "c2p": 1, "p2c": 1, **fields}
    kinds = {int: (np.int32, trt.PluginFieldType.INT32), float: (np.float32, None)}
    made = []
    for name, value in given.items():
        if value is None:
            continue
        number, kind = kinds[type(value)]
        kind = kind or trt.PluginFieldType.FLOAT32
        made.append(trt.PluginField(name, np.array([value], number), kind))
    creator = trt.get_plugin_registry().get_creator(op_type, "1", contract.DOMAIN)
    return creator.create_plugin(
        op_type,
        contract.DOMAIN,
        trt.PluginFieldCollection(made),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.UNKNOWN,
    )


def dims(batch: int, length: int, width: int = WIDTH) -> list[tuple[int, ...]]:
    table = (HEADS, SLOTS, width // (3 * HEADS))
    return [(batch, length, width), table, table, (TABLE,), (batch, length)]


def expressions(shapes: Sequence[tuple[int, ...]]) -> list[list[Any]]:
    """Batch and length known when the engine runs, the rest when it is built."""
    result = []
    for index, shape in enumerate(shapes):
        row: list[Any] = list(shape)
        for axis in range(2) if index in (0, 4) else ():
            row[axis] = trtp.SymInt32()
            row[axis]._int_expr = Number(shape[axis], False)
        result.append(row)
    return result


def descriptions(
    types: Sequence[Any],
    low: tuple[int, int],
    high: tuple[int, int],
    *,
    queries: int | None = None,
    width: int = WIDTH,
) -> list[Any]:
    """Inputs and output as the builder describes them: -1 for batch and length."""
    found = []
    least, most = dims(*low, width), dims(*high, width)
    out = [(shape[0][0], queries or shape[0][1], width // 3) for shape in (least, most)]
    for kind, small, large in zip(types, [*least, out[0]], [*most, out[1]], strict=True):
        item = trt.DynamicPluginTensorDesc()
        item.min, item.opt, item.max = trt.Dims(small), trt.Dims(large), trt.Dims(large)
        known = [a if a == b else -1 for a, b in zip(small, large, strict=True)]
        item.desc.dims, item.desc.type = trt.Dims(known), kind
        item.desc.format = trt.TensorFormat.LINEAR
        found.append(item)
    return found


def launch(
    plugin: Any,
    builder: Expressions,
    shape: tuple[int, int],
    *,
    queries: int | None = None,
    **changes: Any,
) -> Any:
    """Go through what the builder asks, for every tactic; a launch for each."""
    types = list({**TYPES, **changes}.values())
    assert plugin.get_output_data_types(types, RANKS) == [types[0]]
    ((*leading, width),) = plugin.get_output_shapes(expressions(dims(*shape)), [], builder)
    assert [item.value for item in leading] == [shape[0], queries or shape[1]]
    assert width.value == HEADS * HEAD
    described = descriptions([*types, types[0]], (1, 1), shape, queries=queries)
    combinations = plugin.get_supported_format_combinations(described, len(types))
    assert [item.type for item in combinations] == [*types, types[0]]
    assert {item.format for item in combinations} == {trt.TensorFormat.LINEAR}
    plugin.configure_plugin(described[:-1], described[-1:])
    launches = []
    for tactic in plugin.get_valid_tactics():
        plugin.set_tactic(tactic)
        sent, extra = SimpleNamespace(), Scalars()
        plugin.get_launch_params([], described, len(types), sent, extra, builder)
        static = [item.desc for item in described]
        entry, ptx = plugin.get_kernel(static[:-1], static[-1:])
        launches.append((tactic, sent, extra, entry, ptx.decode()))
    return launches


class Scalars(dict[int, int]):
    """Where TensorRT takes the arguments between inputs and output."""

    nbSymExprs = 0  # noqa: N815  # the name in TensorRT


@pytest.mark.parametrize("op_type", contract.QUERIES)
def test_it_is_in_the_registry(op_type: str) -> None:
    registry = trt.get_plugin_registry()
    creator = registry.get_creator(op_type, "1", contract.DOMAIN)
    assert (creator.name, creator.plugin_namespace) == (op_type, contract.DOMAIN)
    assert tuple(item.name for item in creator.field_names) == contract.ATTRIBUTES
    definition = getattr(trtp.op.deb_export, op_type)
    assert tuple(definition.input_tensor_names) == contract.INPUTS
    assert definition.aot_impl_func is not None and definition.impl_func is None


def test_the_node_alone_makes_an_ahead_of_time_plugin() -> None:
    plugin = create()
    assert isinstance(plugin, trt.IPluginV3QuickAOTBuild)
    assert plugin.attrs == {
        "num_heads": HEADS,
        "scale": pytest.approx(SCALE, rel=1e-7),
        "c2p": 1,
        "p2c": 1,
    }
    assert plugin.get_num_outputs() == 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 63), (5, 77), (3, 512)])
@pytest.mark.parametrize("op_type", contract.QUERIES)
def test_launch_grid_and_arguments(
    op_type: str, shape: tuple[int, int], builder: Expressions
) -> None:
    batch, length = shape
    queries = contract.QUERIES[op_type]
    rows = queries or length
    launches = launch(create(op_type), builder, shape, queries=queries)
    assert launches
    spec = KernelSpec(HEADS, HEAD, SCALE)
    for tactic, sent, extra, entry, ptx in launches:
        tile = tile_candidates(spec, 89)[tactic - 1]
        blocks = -(-rows // tile.block_m)
        assert (sent.grid_x, sent.grid_y, sent.grid_z) == (blocks * HEADS * batch, 1, 1)
        assert (sent.block_x, sent.block_y, sent.block_z) == (32 * tile.num_warps, 1, 1)
        assert 0 <= sent.shared_mem <= MOST_SHARED_BYTES
        sent_scalars = [extra[index] for index in range(extra.nbSymExprs)]
        assert sent_scalars == [length, SLOTS, SLOTS, TABLE]
        assert ".target sm_89" in ptx
        parameters = re.search(rf"\.entry {re.escape(entry)}\((.*?)\)", ptx, re.DOTALL)
        assert parameters is not None
        kinds = re.findall(r"\.param \.(u64|u32|b64|b32|s32)", parameters[1])
        wide = ["64" in kind for kind in kinds]
        assert wide == [True] * 5 + [False] * 4 + [True]


def test_short_sequences_get_no_tile_that_is_longer(builder: Expressions) -> None:
    spec = KernelSpec(HEADS, HEAD, SCALE)
    tiles = tile_candidates(spec, 89)
    short = {item[0] for item in launch(create(), builder, (4, 32))}
    long = {item[0] for item in launch(create(), builder, (4, 512))}
    assert {tiles[number - 1].block_m for number in short} == {32}
    assert short < long


@pytest.mark.parametrize("kind", ["FLOAT", "HALF", "BF16"])
def test_every_storage_type(kind: str, builder: Expressions) -> None:
    value = getattr(trt.DataType, kind)
    changes = dict.fromkeys(("qkv", "pos_key", "pos_query"), value)
    assert launch(create(), builder, (2, 40), **changes)


def test_a_mask_of_booleans(builder: Expressions) -> None:
    _, _, _, _, ptx = launch(create(), builder, (2, 40))[0]
    _, _, _, _, other = launch(create(), builder, (2, 40), mask=trt.DataType.BOOL)[0]
    assert ptx != other


@pytest.mark.parametrize(
    ("changes", "ranks", "names"),
    [
        ({"qkv": trt.DataType.INT8}, {}, "pos_key is HALF and qkv is INT8"),
        ({"pos_query": trt.DataType.FLOAT}, {}, "pos_query is FLOAT and qkv is HALF"),
        (
            dict.fromkeys(("qkv", "pos_key", "pos_query"), trt.DataType.FP8),
            {},
            "qkv is FP8; it must be FLOAT or HALF or BF16",
        ),
        ({"slots": trt.DataType.INT64}, {}, "slots is INT64; it must be INT32"),
        ({"mask": Half}, {}, "mask is HALF; it must be INT32 or BOOL"),
        ({}, {"qkv": 4}, "qkv has rank 4; it must be 3"),
        ({}, {"pos_key": 2}, "pos_key has rank 2"),
        ({}, {"slots": 2}, "slots has rank 2; it must be 1"),
        ({}, {"mask": 4}, "mask has rank 4; it must be 2"),
    ],
)
def test_types_and_ranks_that_are_not_the_contracts(
    changes: dict[str, Any], ranks: dict[str, int], names: str
) -> None:
    types = {**TYPES, **changes}
    given = {**dict(zip(TYPES, RANKS, strict=True)), **ranks}
    with pytest.raises(ValueError, match=names):
        create().get_output_data_types(list(types.values()), list(given.values()))


def test_a_width_that_the_heads_do_not_divide(builder: Expressions) -> None:
    plugin = create(num_heads=5)
    plugin.get_output_data_types(list(TYPES.values()), RANKS)
    with pytest.raises(ValueError, match=f"qkv is {WIDTH} wide; it must be 3"):
        plugin.get_output_shapes(expressions(dims(2, 9)), [], builder)


def test_attributes_that_are_not_in_the_contract() -> None:
    with pytest.raises(AssertionError, match="Unexpected attribute dropout"):
        create(dropout=1)
    with pytest.raises(TypeError, match="scale"):
        create(scale=None).get_output_data_types(list(TYPES.values()), RANKS)
    with pytest.raises(ValueError, match="Unexpected attribute window"):
        getattr(trtp.op.deb_export, contract.OP_TYPE)(window=3)


def test_tactics_are_what_can_be_launched() -> None:
    spec = KernelSpec(HEADS, HEAD, SCALE)
    count = len(tile_candidates(spec, 90))
    sizes = [MOST_SHARED_BYTES + 1] + [MOST_SHARED_BYTES] * (count - 1)

    def compile_as(bytes_of: Sequence[int]) -> AttentionPlugin:
        def compiled(spec: KernelSpec, tile: TileConfig, capability: int) -> CompiledKernel:
            place = tile_candidates(spec, capability).index(tile)
            return CompiledKernel("", "", bytes_of[place], 128)

        return AttentionPlugin(trt, trtp, 90, compile=compiled)

    assert compile_as(sizes).tactics(spec, 512) == list(range(2, count + 1))
    assert compile_as(sizes[1:] * 2).tactics(spec, 512) == list(range(1, count + 1))
    with pytest.raises(RuntimeError, match="shared memory"):
        compile_as(sizes[:1] * count).tactics(spec, 512)
    with pytest.raises(ValueError, match=f"tactic {count + 1}: there are {count}"):
        compile_as(sizes).tile(spec, count + 1, 512)


def test_a_gpu_that_the_kernel_does_not_run_on() -> None:
    with pytest.raises(ValueError, match=r"compute capability 7\.5"):
        register_plugin(75)


def test_an_engine_for_all_gpus_gets_ptx_of_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(tensorrt_plugin, "register_plugin", asked.append)
    worker._register_plugin(EngineOptions(hardware_compatible=True))
    worker._register_plugin(EngineOptions())
    assert asked == [80, 89]


@pytest.mark.parametrize("plugins", [0, 1, 2])
def test_every_node_must_become_the_plugin(plugins: int, tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node(
            contract.OP_TYPE, list("abcde"), [f"out{index}"], domain=contract.DOMAIN
        )
        for index in range(2)
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in ("a", "b", "c", "d", "e", "out1")
    ]
    graph = onnx.helper.make_graph(nodes, "g", values[:-1], values[-1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "g.onnx")
    layers = [MagicMock(spec=trt.ILayer, type=trt.LayerType.SOFTMAX)]
    layers += [MagicMock(spec=trt.ILayer, type=trt.LayerType.PLUGIN_V3) for _ in range(plugins)]
    network = MagicMock(spec=trt.INetworkDefinition, num_layers=len(layers))
    network.get_layer.side_effect = layers.__getitem__
    if plugins == 2:
        worker._check_plugins(trt, network, tmp_path / "g.onnx")
        return
    with pytest.raises(ValueError, match=f"{plugins} of 2 attention nodes"):
        worker._check_plugins(trt, network, tmp_path / "g.onnx")


def test_once_in_a_process() -> None:
    with pytest.raises(ValueError, match="already has a defin"):
        register_plugin(89)
