"""What is measured on calibration text is said: how much of it, whose, and how far others reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.site_graphs import export_random, feeds

from calibration.observe import observe
from calibration.sites import find_sites
from calibration.table import ScaleTable
from exporter.cli import main
from exporter.deberta.tokenization import load_tokenizer
from exporter.demo import checkpoint_folder
from exporter.model.task import Task
from exporter.precision.quantized.languages import has_many_scripts, is_other_script
from exporter.precision.quantized.reach import Reach, reach
from exporter.runtime.providers.onnx_session import open_fp32

pytestmark = pytest.mark.usefixtures("shared_traces")

TASK = Task.SEQUENCE_CLASSIFICATION


def test_values_beyond_the_calibrated_range_are_counted(tmp_path: Path) -> None:
    import onnx_ir as ir

    path, fields = export_random(tmp_path)
    batches = [feeds(fields, TASK, 4, 21, seed) for seed in range(3)]
    sites = find_sites(ir.load(path))
    seen = observe(path, [site.activation for site in sites], batches, open_fp32)
    statistics = {site.name: seen[site.activation] for site in sites}
    table = ScaleTable.from_statistics(statistics, model_hash="m", data_hash="d", method="minmax")
    same = reach(path, table, batches)
    assert (same.layers, same.beyond, same.furthest) == (8, (), 1.0)
    assert str(same) == (
        "the judged texts reach beyond the calibrated range in 0 of 8 linear layers"
    )
    # Of one layer half as much was seen.
    name = sites[3].name
    half = statistics[name]
    tensor = table.tensors[name]
    object.__setattr__(tensor, "minimum", float(half.channel_min.min()) / 2)
    object.__setattr__(tensor, "maximum", float(half.channel_max.max()) / 2)
    found = reach(path, table, batches)
    assert (found.beyond, found.where) == ((name,), name)
    assert found.furthest == pytest.approx(2)
    assert str(found).endswith(f"in 1 of 8 linear layers, 2 times in {name}")


def test_no_layer_reaches_nowhere() -> None:
    assert "0 of 0" in str(Reach(0, (), 0.0, ""))


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("plain", False),
        ("Größe, naïve ★ 3½", False),
        ("фильм", True),
        ("映画", True),
        ("a β", True),
    ],
)
def test_scripts(text: str, other: bool) -> None:
    assert is_other_script(text) is other


class Pieces:
    """A vocabulary of so many Cyrillic pieces among a hundred."""

    vocab_size = 100

    def __init__(self, other: int) -> None:
        self._other = other

    def convert_ids_to_tokens(self, ids: range) -> list[str]:
        return ["▁я" if index < self._other else "▁a" for index in ids]


def test_a_vocabulary_of_many_scripts() -> None:
    assert not has_many_scripts(load_tokenizer(checkpoint_folder()))
    many, few = Pieces(20), Pieces(19)
    assert has_many_scripts(many) and not has_many_scripts(few)  # type: ignore[arg-type]


def test_a_build_says_whose_texts_it_used(
    make_checkpoint: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "exporter.precision.quantized.quantization_input.has_many_scripts"
    monkeypatch.setattr(module, lambda tokenizer: True)
    output = tmp_path / "out"
    command = ["build", str(make_checkpoint()), "--output", str(output), "--target", "onnx"]
    assert main([*command, "--precision", "int8", "--seq", "1,16,40"]) == 0
    printed = capsys.readouterr()
    assert (
        "vocabulary has many scripts, and the calibration texts (the demo's texts)" in printed.err
    )
    facts = json.loads((output / "manifest.json").read_text())["graph"]["quantization"]
    texts = facts["texts"]
    assert texts["source"] == "the demo's texts"
    assert 0 < texts["used"] < texts["given"] and texts["held_back"] > 0
    assert f"{texts['used']} of {texts['given']} to calibrate" in printed.out
    notes = json.loads((output / "parity.json").read_text())["notes"]
    assert notes[:2] == [
        "scales are from the demo's English texts; give --calibration-data for your own",
        "judged on the demo's English texts; give --data for your own",
    ]
    assert "reach beyond the calibrated range in" in notes[2]
    beyond = facts["judged_beyond_calibration"]
    assert beyond["layers"] == 8 and beyond["furthest"] > 0
    assert all(note in printed.out for note in notes)
