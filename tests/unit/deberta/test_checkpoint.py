"""Loading of checkpoints: formats, prefixes, dtypes, and everything that can be wrong with one."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.random_models import random_config, random_inputs, random_model

from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.errors import InputError
from exporter.model.task import Task

SEED = 2  # sequence classification


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fields, task = random_config(SEED)
    random_model(fields, task, SEED).save_pretrained(tmp_path)
    return tmp_path


def logits(folder: Path, task: Task | None = None) -> torch.Tensor:
    fields, own = random_config(SEED)
    inputs = random_inputs(fields, own, 2, 9, 0)
    with torch.no_grad():
        return load_model(open_checkpoint(folder, task))(**inputs)[0]


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_old_pickle(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / "model.safetensors").unlink()


def as_shards(folder: Path, stem: str, suffix: str, save: Callable[..., Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = [dict(list(tensors.items())[::2]), dict(list(tensors.items())[1::2])]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        name = f"{stem}-{number:05}-of-00002.{suffix}"
        save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def as_safetensors_shards(folder: Path) -> None:
    as_shards(folder, "model", "safetensors", save_file)


def as_pickle_shards(folder: Path) -> None:
    as_shards(folder, "pytorch_model", "bin", torch.save)


@pytest.mark.parametrize(
    "rewrite", [as_pickle, as_old_pickle, as_safetensors_shards, as_pickle_shards]
)
def test_every_format_holds_the_same_model(rewrite: Callable[[Path], None], folder: Path) -> None:
    expected = logits(folder)
    rewrite(folder)
    assert torch.equal(logits(folder), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_converted_exactly(dtype: torch.dtype, folder: Path) -> None:
    path = folder / "model.safetensors"
    narrowed = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file({name: tensor.float() for name, tensor in narrowed.items()}, path)
    expected = logits(folder)
    save_file(narrowed, path)
    model = load_model(open_checkpoint(folder))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(logits(folder), expected)


def test_fp32_weights_stay_in_the_mapped_file(folder: Path) -> None:
    """Nothing is copied: the parameters lie in memory that maps the file."""
    model = load_model(open_checkpoint(folder))
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see which memory is mapped from the file")
    address = model.get_parameter("deberta.embeddings.word_embeddings.weight").data_ptr()
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in maps.read_text().splitlines()
        if "model.safetensors" in line
    ]
    assert any(low <= address < high for low, high in ranges)


def test_weights_without_the_prefix(folder: Path) -> None:
    expected = logits(folder)
    path = folder / "model.safetensors"
    save_file({n.removeprefix("deberta."): t for n, t in load_file(path).items()}, path)
    assert torch.equal(logits(folder), expected)


def test_a_base_model_from_a_checkpoint_with_a_head(folder: Path) -> None:
    checkpoint = open_checkpoint(folder, Task.BASE)
    assert set(checkpoint.ignored) == {
        "classifier.bias",
        "classifier.weight",
        "pooler.dense.bias",
        "pooler.dense.weight",
    }
    hidden = logits(folder, Task.BASE)
    assert hidden.shape[:2] == (2, 9)


def test_the_task_comes_from_architectures(folder: Path) -> None:
    assert open_checkpoint(folder).task is Task.SEQUENCE_CLASSIFICATION
    change_config(folder, architectures=None)
    assert open_checkpoint(folder).task is Task.SEQUENCE_CLASSIFICATION
    change_config(folder, architectures=["DebertaV2ForSomethingElse"])
    with pytest.raises(InputError, match="--task"):
        open_checkpoint(folder)


def test_tied_decoder_is_found_in_the_embeddings(tmp_path: Path) -> None:
    fields, _ = random_config(1)
    fields |= {"legacy": True}
    fields.pop("embedding_size", None)
    model = random_model(fields, Task.MASKED_LM, 1)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "cls.predictions.decoder.weight" not in stored
    checkpoint = open_checkpoint(tmp_path)
    decoder = checkpoint.read("cls.predictions.decoder.weight")
    assert torch.equal(decoder, model.deberta.embeddings.word_embeddings.weight)
    loaded = load_model(checkpoint)
    shared = loaded.get_parameter("cls.predictions.decoder.weight").data_ptr()
    assert shared == loaded.get_parameter("deberta.embeddings.word_embeddings.weight").data_ptr()

    change_config(tmp_path, tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"missing: .*cls\.predictions\.decoder\.weight"):
        open_checkpoint(tmp_path)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_missing_unexpected_and_misshapen_tensors_are_named(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["deberta.encoder.layer.0.output.dense.bias"]
        tensors["deberta.encoder.layer.9.surprise"] = torch.zeros(1)
        tensors["classifier.weight"] = torch.zeros(3, 4)

    edit(folder, change)
    with pytest.raises(InputError) as caught:
        open_checkpoint(folder)
    message = str(caught.value)
    assert "missing: deberta.encoder.layer.0.output.dense.bias" in message
    assert "unexpected: deberta.encoder.layer.9.surprise" in message
    assert "classifier.weight is (3, 4), expected (5, 10)" in message


def test_an_integer_tensor_is_refused(folder: Path) -> None:
    name = "deberta.encoder.layer.0.output.dense.bias"
    edit(folder, lambda tensors: tensors.update({name: tensors[name].to(torch.int32)}))
    with pytest.raises(InputError, match=f"{name} is stored as torch.int32"):
        load_model(open_checkpoint(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named(value: float, folder: Path) -> None:
    name = "deberta.encoder.layer.1.attention.output.dense.weight"

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][-1, -1] = value

    edit(folder, change)
    with pytest.raises(InputError, match=name):
        load_model(open_checkpoint(folder))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
@pytest.mark.parametrize("rewrite", [None, as_pickle])
def test_a_truncated_file(keep: int, rewrite: Callable[[Path], None] | None, folder: Path) -> None:
    if rewrite is not None:
        rewrite(folder)
    path = next(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=path.name):
        load_model(open_checkpoint(folder))


class Evil:
    """Runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.proof,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_execute_code_does_not(zipped: bool, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    proof = folder / "executed"
    path = folder / "pytorch_model.bin"
    if zipped:
        torch.save({"w": torch.zeros(1), "evil": Evil(proof)}, path)
    else:
        path.write_bytes(pickle.dumps(Evil(proof)))
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        open_checkpoint(folder)
    assert not proof.exists()


def test_a_pickle_that_is_no_state_dict(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save([torch.zeros(1)], folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="expected a state dict"):
        open_checkpoint(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not a readable weight index"),
        ("{}", "not a readable weight index"),
        ('{"weight_map": 3}', "not a readable weight index"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "gone.safetensors, which is missing"),
        ('{"weight_map": {"a": "../config.json"}}', "not a file beside it"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "not a file beside it"),
    ],
)
def test_a_broken_index(index: str, message: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("task", "fields", "named"),
    [
        (Task.QUESTION_ANSWERING, {}, "id2label"),
        (Task.MASKED_LM, {"legacy": False, "embedding_size": 3}, "embedding_size"),
    ],
)
def test_a_configuration_that_does_not_fit_the_task(
    task: Task, fields: dict[str, Any], named: str, folder: Path
) -> None:
    change_config(folder, **fields)
    with pytest.raises(InputError, match=named):
        open_checkpoint(folder, task)
