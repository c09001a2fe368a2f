"""LoRA adapters against the same sum done by hand in the model of transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.checkpoints import write_checkpoint
from support.random_models import HF_CLASSES, random_inputs

from exporter.artifact.manifest import read_manifest
from exporter.cli import main
from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.errors import InputError
from exporter.model.task import Task
from exporter.parity.sides import source_side
from exporter.pipeline.build_artifact import build
from exporter.pipeline.config import BuildConfig
from exporter.runtime.load import load

SETTINGS: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "SEQ_CLS", "r": 4, "lora_alpha": 10, "bias": "none",
    "use_rslora": False, "fan_in_fan_out": False, "init_lora_weights": True,
    "target_modules": ["query_proj", "value_proj", "dense"], "modules_to_save": ["classifier"],
}  # fmt: skip
LAYER = "deberta.encoder.layer"
MODULES = {
    f"{LAYER}.0.attention.self.query_proj": (24, 24),
    f"{LAYER}.1.intermediate.dense": (40, 24),
    f"{LAYER}.1.output.dense": (24, 40),
}


def pair(size: tuple[int, int], rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A `(r, in)` and B `(out, r)`."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, size[1], generator=generator)
    return down, torch.randn(size[0], rank, generator=generator) * 0.1


def write_adapter(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None] | None = None, **settings: Any
) -> Path:
    """An adapter on the three matrices, and a classifier of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {**SETTINGS, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(raw))
    tensors = {}
    for seed, (module, size) in enumerate(MODULES.items()):
        rank = (raw.get("rank_pattern") or {}).get("intermediate.dense", raw["r"])
        rank = rank if "intermediate" in module else raw["r"]
        down, up = pair(size, rank, seed)
        tensors[f"base_model.model.{module}.lora_A.weight"] = down
        tensors[f"base_model.model.{module}.lora_B.weight"] = up
    tensors["base_model.model.classifier.weight"] = pair((2, 24), 4, 9)[0][:2].contiguous()
    tensors["base_model.model.classifier.bias"] = torch.tensor([0.5, -0.25])
    if change is not None:
        change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "base", "sequence-classification")


def logits(model: torch.nn.Module) -> torch.Tensor:
    fields = {"vocab_size": 1000, "type_vocab_size": 0}
    inputs = random_inputs(fields, Task.SEQUENCE_CLASSIFICATION, 2, 9, 0)
    with torch.no_grad():
        return model(**inputs)[0]


def by_hand(base: Path, scales: tuple[float, float, float], rank: int = 4) -> torch.Tensor:
    """The logits of transformers' model with the products added, one scale a module."""
    model = HF_CLASSES[Task.SEQUENCE_CLASSIFICATION].from_pretrained(base).float().eval()
    with torch.no_grad():
        for seed, (scale, (module, size)) in enumerate(zip(scales, MODULES.items(), strict=True)):
            down, up = pair(size, rank if "intermediate" in module else 4, seed)
            model.get_submodule(module).weight += scale * (up @ down)
        model.classifier.weight.copy_(pair((2, 24), 4, 9)[0][:2])
        model.classifier.bias.copy_(torch.tensor([0.5, -0.25]))
    return logits(model)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize(
    ("settings", "scales", "rank"),
    [
        ({}, (2.5, 2.5, 2.5), 4),
        ({"use_rslora": True}, (5.0, 5.0, 5.0), 4),
        ({"fan_in_fan_out": True}, (2.5, 2.5, 2.5), 4),  # as PEFT does for nn.Linear
        ({"alpha_pattern": {"query_proj": 2}}, (0.5, 2.5, 2.5), 4),
        ({"rank_pattern": {"intermediate.dense": 5}}, (2.5, 2.0, 2.5), 5),
        ({"alpha_pattern": {r"layer\.1\..*dense": 4}}, (2.5, 1.0, 1.0), 4),
    ],
)
def test_lora_beside_its_model_is_merged_and_said(
    settings: dict[str, Any], scales: tuple[float, float, float], rank: int, base: Path
) -> None:
    expected = by_hand(base, scales, rank)
    plain = logits(load_model(open_checkpoint(base)))
    write_adapter(base, **settings)
    checkpoint = open_checkpoint(base)
    assert_close(logits(load_model(checkpoint)), expected)
    assert (plain - expected).abs().max() > 0.1
    (note,) = checkpoint.notes
    assert "a LoRA adapter, merged: 3 matrices changed, 2 tensors replaced" in note
    assert base / "adapter_model.safetensors" in checkpoint.files


def test_an_embedding_and_a_bias(base: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = open_checkpoint(base).config.vocab_size
    down, up = torch.randn(4, rows, generator=generator), torch.randn(24, 4, generator=generator)
    bias, table = f"{LAYER}.0.output.dense.bias", "deberta.embeddings.word_embeddings"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"base_model.model.{table}.lora_embedding_A"] = down * 0.1
        tensors[f"base_model.model.{table}.lora_embedding_B"] = up * 0.1
        tensors[f"base_model.model.{bias}"] = torch.full((24,), 0.75)
        # PEFT saves this one too, and does not load it.
        tensors["base_model.model.classifier.original_module.bias"] = torch.zeros(2)

    before = open_checkpoint(base).read(f"{table}.weight")
    write_adapter(base, change, bias="all")
    checkpoint = open_checkpoint(base)
    expected = before + 2.5 * (up * 0.1 @ (down * 0.1)).T
    assert_close(checkpoint.read(f"{table}.weight"), expected)
    assert torch.equal(checkpoint.read(bias), torch.full((24,), 0.75))
    assert checkpoint.ignored == ()


@pytest.mark.parametrize("how", ["absolute", "relative", "option"])
def test_an_adapter_alone_is_merged_into_the_model_it_names(
    how: str, base: Path, tmp_path: Path
) -> None:
    name = {"absolute": str(base), "relative": "../base", "option": "microsoft/deberta-v3-base"}
    folder = write_adapter(tmp_path / "adapter", base_model_name_or_path=name[how])
    given = base if how == "option" else None
    checkpoint = open_checkpoint(folder, base=given)
    assert_close(logits(load_model(checkpoint)), by_hand(base, (2.5, 2.5, 2.5)))
    if how == "option":
        with pytest.raises(InputError, match=r"microsoft/deberta-v3-base; give.*--base"):
            open_checkpoint(folder)
        with pytest.raises(InputError, match="no adapter; leave it out"):
            open_checkpoint(base, base=base)


def test_a_build_of_an_adapter_alone(
    base: Path, tmp_path: Path, texts_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its labels, its tokenizer's place, and what judges it later."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.classifier.weight"] = pair((3, 24), 4, 9)[0][:3].contiguous()
        tensors["base_model.model.classifier.bias"] = torch.tensor([0.5, -0.25, 0.0])

    folder = write_adapter(tmp_path / "adapter", change, base_model_name_or_path="elsewhere/model")
    config = BuildConfig(folder, tmp_path / "out", base=base, data=texts_file, targets=("onnx",))
    with pytest.warns(UserWarning, match=r"a LoRA adapter, merged|LABEL_0"):
        manifest = build(config)
    assert manifest.passed
    merged, labels = (any(text in n for n in manifest.source.notes) for text in ("LoRA", "LABEL"))
    assert (merged, labels) == (True, True)
    assert list(manifest.labels.values()) == ["LABEL_0", "LABEL_1", "LABEL_2"]
    with load(tmp_path / "out") as session, load(tmp_path / "out", "torch") as reference:
        ids = [[1, 5, 9, 77, 2]]
        found, expected = (s.run(input_ids=ids)["logits"] for s in (session, reference))
    assert abs(found - expected).max() <= 1e-5 * abs(expected).max()
    assert source_side(read_manifest(tmp_path / "out")).base == base
    moved = shutil.move(base, tmp_path / "moved")
    judge = ["parity", str(tmp_path / "out"), "--data", str(texts_file), "--lengths", "none"]
    assert main(judge) == 2
    assert (
        "base: no such folder; name the adapter's base model with --base" in capsys.readouterr().err
    )
    assert main([*judge, "--base", str(moved)]) == 0
    shutil.move(moved / "model.safetensors", moved / "other")
    with pytest.raises(InputError, match=r"model\.safetensors missing"):
        source_side(read_manifest(tmp_path / "out"), base=moved)


def magnitude(tensors: dict[str, torch.Tensor]) -> None:
    name = next(iter(MODULES))
    tensors[f"base_model.model.{name}.lora_magnitude_vector.weight"] = torch.ones(24)


def half(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"base_model.model.{next(iter(MODULES))}.lora_B.weight"]


def elsewhere(tensors: dict[str, torch.Tensor]) -> None:
    for kind, size in (("A", (4, 24)), ("B", (24, 4))):
        tensors[f"base_model.model.{LAYER}.7.dense.lora_{kind}.weight"] = torch.ones(size)


def wider(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"base_model.model.{next(iter(MODULES))}.lora_A.weight"] = torch.ones(4, 32)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (None, {"peft_type": "IA3"}, "an adapter IA3; only LORA"),
        (None, {"peft_type": None}, "of another library than PEFT"),
        (None, {"use_dora": True}, "use_dora"),
        (None, {"lora_bias": True}, "lora_bias"),
        (None, {"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4'"),
        (None, {"lora_alpha": "16"}, "not a positive number"),
        (None, {"r": 0}, "not a positive number"),
        (None, {"rank_pattern": {"query_proj": 8}}, "r of .*query_proj is 8"),
        (magnitude, {}, "lora_magnitude_vector"),
        (half, {}, "it has A alone"),
        (elsewhere, {}, r"layer\.7\.dense, which the base does not have"),
        (wider, {}, r"query_proj is \(24, 24\), its A \(4, 32\)"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    change: Callable[[dict[str, torch.Tensor]], None] | None,
    settings: dict[str, Any],
    message: str,
    base: Path,
) -> None:
    write_adapter(base, change, **settings)
    with pytest.raises(InputError, match=message):
        open_checkpoint(base)


def test_an_adapter_without_its_weights(base: Path) -> None:
    write_adapter(base)
    (base / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"expected adapter_model\.safetensors or"):
        open_checkpoint(base)
