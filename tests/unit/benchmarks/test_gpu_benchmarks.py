"""What of the GPU benchmarks a CPU can run: counts, contenders' agreement, rows, exit codes."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import attention, counts, model, timing
from benchmarks.gpu.contenders import (
    OURS,
    layer_contenders,
    missing_peers,
    model_contenders,
    model_fields,
    random_layer,
    random_state,
)
from plugins.disentangled_attention.launch import TileConfig
from plugins.disentangled_attention.slots import slot_table

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
PREPARED = timing.Prepared(run=lambda: None, graph=True, peak_mib=1.5, error=1e-3)


@pytest.mark.parametrize("script", [attention, model])
def test_without_a_gpu_it_says_so_with_exit_code_3(script, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.main([]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("no GPU: PyTorch")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (attention, ["--lengths", "0"]),
        (attention, ["--tokens", "64", "--lengths", "128"]),
        (attention, ["--dtype", "int8"]),
        (model, ["--shapes", "128"]),
        (model, ["--shapes", "0x4"]),
        (model, ["--rounds", "0"]),
    ],
)
def test_wrong_arguments_are_refused(script, arguments, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        script.parse(arguments)
    assert exit_.value.code == 2


def test_shapes_hold_the_tokens_and_come_once() -> None:
    made = attention.shapes(attention.parse([]))
    assert len(made) == len(set(made))
    assert all(batch * length == 16384 or batch == 1 for batch, length in made)
    assert (128, 128) in made and (1, 8192) in made
    assert model.shape("8x512") == (8, 512)


@pytest.mark.parametrize("length", [1, 5, 40, 130])
def test_active_slots_and_operations_are_those_of_the_definition(length: int) -> None:
    shape = counts.Shape(3, length, heads=2, size=8, span=6, max_position=20)
    table = slot_table(6, 6, 20).tolist()
    reach = shape.saturation
    pairs = itertools.product(range(length), repeat=2)
    slots = {table[max(-reach, min(reach, i - j)) + reach] for i, j in pairs}
    assert counts.active_slots(shape) == len(slots)
    products = 2 * length * length * 8 + 2 * length * len(slots) * 8
    assert counts.needed_operations(shape) == 2 * products * 3 * 2


@pytest.mark.parametrize("length", [1, 63, 64, 700, 2049])
@pytest.mark.parametrize("tile", [TileConfig(64, 32, 64, 4, 2), TileConfig(32, 64, 32, 4, 2)])
def test_tiles_cover_every_key_and_far_ones_hold_no_near_pair(
    length: int, tile: TileConfig
) -> None:
    shape = counts.Shape(1, length)
    near, far = counts.tile_counts(shape, tile)
    rows = -(-length // tile.block_m)
    assert near * tile.block_n + far * tile.far_n >= rows * length
    most = shape.saturation * 2 + tile.block_m + tile.far_n + 2 * tile.block_n
    assert near <= rows * -(-most // tile.block_n)
    if length <= shape.saturation:
        assert far == 0


def test_contenders_compute_the_same_layer() -> None:
    fields = model_fields(SIZES, vocabulary=50)
    layer, relative = random_layer(fields)
    slots = slot_table(256, 256, 512)
    hidden = torch.randn(2, 21, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 21, dtype=torch.int64)
    mask[1, 13:] = 0
    wanted = attention.reference(layer, relative, slots, hidden, mask)[mask.bool()]
    makers = layer_contenders(layer, relative, slots, fields)
    for name in (OURS, "HF eager", "SDPA, bias in memory"):
        found = makers[name]()(hidden, mask)[mask.bool()]
        assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max(), name
    assert set(makers) | set(missing_peers()) >= {"flashdeberta", "disentangled-flash"}


def test_contenders_compute_the_same_model() -> None:
    fields = model_fields(SIZES, vocabulary=50)
    makers = model_contenders(fields, random_state(fields), "cpu", torch.float32)
    ids, mask = model.inputs(2, 19, 50)
    with torch.inference_mode():
        ours, theirs = (makers[name]()(ids, mask)[mask.bool()] for name in (OURS, "HF eager"))
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert model.model_operations(SIZES, 2, 19) > 0


def test_rows_have_percentiles_rates_and_a_table(tmp_path: Path) -> None:
    rows = [
        timing.make_row(
            name, PREPARED, times, scope="layer", dtype="float16", shape=(2, 64),
            operations=1e9, rate=1e14,
        )
        for name, times in ((OURS, [30.0, 10.0, 20.0]), ("other", [60.0]))
    ]  # fmt: skip
    assert (rows[0].low_us, rows[0].median_us, rows[0].high_us) == (14.0, 20.0, 26.0)
    assert rows[0].tera_per_s == 50.0
    assert rows[0].of_matmul == 0.5
    path = tmp_path / "rows.csv"
    timing.append_rows(rows[:1], path)
    timing.append_rows(rows[1:], path)
    with path.open() as stream:
        assert [row["contender"] for row in csv.DictReader(stream)] == [OURS, "other"]
    lines = timing.table(rows, OURS).splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("3.00 x")
