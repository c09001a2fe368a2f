"""Checkpoints as they lie on disks: what transformers loads gives the same logits here."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.random_models import HF_CLASSES, random_config, random_inputs, random_model

from exporter.deberta.checkpoint import contradictions, load_model, open_checkpoint
from exporter.deberta.weight_names import named
from exporter.errors import InputError
from exporter.model.task import Task

SEED = 2  # sequence classification, 5 labels
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fields, task = random_config(SEED)
    random_model(fields, task, SEED).save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    path = folder / "model.safetensors"
    save_file({name: t.contiguous() for name, t in change(load_file(path)).items()}, path)


def change_config(folder: Path, **fields: Any) -> None:
    """Set fields of config.json, or remove those that are None."""
    path = folder / "config.json"
    changed = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: v for key, v in changed.items() if v is not None}))


def ours(folder: Path, task: Task | None = None, **options: Any) -> torch.Tensor:
    fields, own = random_config(SEED)
    with torch.no_grad():
        checkpoint = open_checkpoint(folder, task, **options)
        return load_model(checkpoint)(**random_inputs(fields, own, 2, 9, 0))[0]


def theirs(folder: Path, task: Task = Task.SEQUENCE_CLASSIFICATION) -> torch.Tensor:
    fields, own = random_config(SEED)
    model = HF_CLASSES[task].from_pretrained(folder).float().eval()
    with torch.no_grad():
        return model(**random_inputs(fields, own, 2, 9, 0))[0]


def assert_same_as_transformers(folder: Path) -> None:
    expected = theirs(folder)
    assert (ours(folder) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_older_names_of_layer_norms(folder: Path) -> None:
    def older(tensors: Tensors) -> Tensors:
        names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        return {
            name if name[-16:] not in names and name[-14:] not in names
            else name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
        }  # fmt: skip

    edit(folder, older)
    assert any(name.endswith("LayerNorm.gamma") for name in load_file(folder / "model.safetensors"))
    assert_same_as_transformers(folder)
    assert open_checkpoint(folder).notes == ()


def test_gamma_is_a_weight_only_within_layer_norm(folder: Path) -> None:
    edit(folder, lambda tensors: {**tensors, "deberta.scale.gamma": torch.ones(3)})
    assert open_checkpoint(folder).ignored == ("deberta.scale.gamma",)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net."])
def test_a_prefix_of_all_tensors_is_left_out_and_said(prefix: str, folder: Path) -> None:
    expected = ours(folder)
    edit(folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    assert torch.equal(ours(folder), expected)
    (note,) = open_checkpoint(folder).notes
    assert repr(prefix) in note


def test_a_prefix_of_a_base_model_without_its_own(tmp_path: Path) -> None:
    fields, _ = random_config(0)
    random_model(fields, Task.BASE, 0).save_pretrained(tmp_path)
    plain = open_checkpoint(tmp_path)
    edit(tmp_path, lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()})
    prefixed = open_checkpoint(tmp_path)
    assert dict(prefixed.sources) == dict(plain.sources)


def test_a_prefix_of_some_tensors_is_an_error_that_names_it(folder: Path) -> None:
    edit(
        folder,
        lambda tensors: {
            name if name.startswith("classifier") else f"module.{name}": tensor
            for name, tensor in tensors.items()
        },
    )
    with pytest.raises(InputError, match=r"begin with 'module\.', classifier\.bias, classifier"):
        open_checkpoint(folder)


UNUSED = {
    "score.weight": (2, 10),
    "deberta.embeddings.position_ids": (1, 512),
    "deberta.embeddings.position_embeddings.weight": (512, 10),
    "deberta.embeddings.token_type_embeddings.weight": (2, 10),
    "deberta.encoder.layer.0.attention.self.pos_key_proj.weight": (10, 10),
    "qa_outputs.weight": (2, 10),
    "lm_predictions.lm_head.bias": (100,),
    "mask_predictions.dense.weight": (10, 10),
    "deberta.encoder.layer.9.output.dense.bias": (10,),
}


@pytest.mark.parametrize("name", UNUSED)
def test_a_tensor_that_nobody_reads_is_named_or_refused(name: str, folder: Path) -> None:
    change_config(
        folder, share_att_key=True, position_biased_input=False, type_vocab_size=0
    )  # fmt: skip
    fields, task = random_config(SEED)
    fields |= {"share_att_key": True, "position_biased_input": False, "type_vocab_size": 0}
    random_model(fields, task, SEED).save_pretrained(folder)
    edit(folder, lambda tensors: {**tensors, name: torch.zeros(UNUSED[name])})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.ignored == (name,)
    assert [note for note in checkpoint.notes if name in note]
    model = HF_CLASSES[task].from_pretrained(folder).float().eval()
    inputs = random_inputs(fields, task, 2, 9, 0)
    with torch.no_grad():
        found, expected = load_model(checkpoint)(**inputs)[0], model(**inputs)[0]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    with pytest.raises(InputError, match=name):
        open_checkpoint(folder, strict=True)


def test_many_unused_tensors_are_named_by_their_pattern() -> None:
    names = [f"encoder.layer.{i}.self.pos_key_proj.{kind}" for i in range(12) for kind in "ab"]
    assert named(["score.weight", *names]) == (
        "score.weight, encoder.layer.*.self.pos_key_proj.a (12), "
        "encoder.layer.*.self.pos_key_proj.b (12)"
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_head_is_inferred_from_the_weights(seed: int, tmp_path: Path) -> None:
    fields, task = random_config(seed)
    random_model(fields, task, seed).save_pretrained(tmp_path)
    change_config(tmp_path, architectures=None)
    if task is Task.MASKED_LM and not fields["legacy"]:
        fields["legacy"] = False  # says so itself
    if task is Task.MULTIPLE_CHOICE:
        change_config(tmp_path, id2label=None, num_labels=None)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.task is task
    assert [note for note in checkpoint.notes if str(task) in note] or task is Task.BASE


@pytest.mark.parametrize(
    "extra", [{"qa_outputs.weight": (2, 10)}, {"lm_predictions.lm_head.bias": (100,)}]
)
def test_without_architectures_two_heads_are_a_choice(extra: Any, folder: Path) -> None:
    change_config(folder, architectures=None)
    added = {name: torch.zeros(size) for name, size in extra.items()}
    edit(folder, lambda tensors: {**tensors, **added})
    with pytest.raises(InputError, match=f"{next(iter(extra)).split('.')[0]}.*--task"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, Task.SEQUENCE_CLASSIFICATION).ignored == tuple(extra)


def test_the_published_backbones_ask_for_the_task(folder: Path) -> None:
    """v3 as published: no architectures, and the heads of its pre-training."""
    change_config(folder, architectures=None)

    def published(tensors: Tensors) -> Tensors:
        backbone = {name: t for name, t in tensors.items() if name.startswith("deberta.")}
        return {**backbone, "lm_predictions.lm_head.bias": torch.zeros(100),
                "mask_predictions.dense.weight": torch.zeros(10, 10)}  # fmt: skip

    edit(folder, published)
    with pytest.raises(InputError, match=r"lm_predictions; choose the head with --task"):
        open_checkpoint(folder)
    assert open_checkpoint(folder, Task.BASE).task is Task.BASE


@pytest.mark.parametrize(("stored", "said"), [(False, True), (True, False)])
def test_the_other_form_of_the_masked_lm_head_is_a_hint(
    stored: bool, said: bool, tmp_path: Path
) -> None:
    fields, _ = random_config(1)
    fields |= {"legacy": stored}
    fields.pop("embedding_size", None)
    random_model(fields, Task.MASKED_LM, 1).save_pretrained(tmp_path)
    change_config(tmp_path, legacy=None if said else False)
    with pytest.raises(InputError, match=f'set "legacy": {str(not said).lower()}'):
        open_checkpoint(tmp_path)


def as_parameters(model: torch.nn.Module) -> object:
    return dict(model.named_parameters())


def as_lightning(model: torch.nn.Module) -> object:
    state = OrderedDict((f"model.{name}", t) for name, t in model.state_dict().items())
    return {"epoch": 3, "state_dict": state, "optimizer_states": [{"state": {0: torch.ones(2)}}]}


def as_tutorial(model: torch.nn.Module) -> object:
    return {"epoch": 3, "model_state_dict": model.state_dict(), "loss": 0.5}


@pytest.mark.parametrize("save", [as_parameters, as_lightning, as_tutorial])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_loops_save(
    save: Callable[[torch.nn.Module], object], zipped: bool, folder: Path
) -> None:
    expected = ours(folder)
    model = transformers.DebertaV2ForSequenceClassification.from_pretrained(folder)
    path = folder / "pytorch_model.bin"
    torch.save(save(model), path, _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    assert torch.equal(ours(folder), expected)
    notes = open_checkpoint(folder).notes
    assert len(notes) == {as_parameters: 0, as_lightning: 2, as_tutorial: 1}[save]


def test_two_weight_files_that_differ(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    torch.save(tensors, folder / "pytorch_model.bin")
    assert contradictions(open_checkpoint(folder)) == ()
    tensors["classifier.bias"][-1] += 1e-3
    torch.save(tensors, folder / "pytorch_model.bin")
    (note,) = contradictions(open_checkpoint(folder))
    assert "model.safetensors is read, pytorch_model.bin beside it is not" in note
    assert "classifier.bias" in note
    (folder / "pytorch_model.bin").write_bytes(b"junk")
    (note,) = contradictions(open_checkpoint(folder))
    assert "damaged" in note


def test_a_stored_decoder_that_is_not_the_embeddings(tmp_path: Path) -> None:
    fields, _ = random_config(1)
    fields |= {"legacy": True}
    fields.pop("embedding_size", None)
    random_model(fields, Task.MASKED_LM, 1).save_pretrained(tmp_path)
    table = "deberta.embeddings.word_embeddings.weight"
    for factor, said in ((1, 0), (2, 1)):
        edit(
            tmp_path,
            lambda tensors, by=factor: {
                **tensors, "cls.predictions.decoder.weight": tensors[table] * by
            },
        )  # fmt: skip
        found = contradictions(open_checkpoint(tmp_path))
        assert len(found) == said
        assert all("cls.predictions.decoder.weight" in note for note in found)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 371146213\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"model.onnx": "x"}, "this folder holds an ONNX file"),
        ({"onnx/model.onnx": "x"}, r"this folder holds an ONNX file.*onnx/model\.onnx"),
        ({"tf_model.h5": "x"}, "TensorFlow"),
        ({"epoch.ckpt": "x"}, r"Lightning; rename it to pytorch_model\.bin"),
        ({"model.safetensors": POINTER}, r"model\.safetensors: a pointer of Git LFS.*git lfs pull"),
        ({"pytorch_model.bin": POINTER}, r"pytorch_model\.bin: a pointer of Git LFS"),
    ],
)
def test_what_lies_in_the_place_of_weights(
    files: dict[str, str], message: str, folder: Path
) -> None:
    (folder / "model.safetensors").unlink()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


def test_other_models_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "deberta"}')
    with pytest.raises(InputError, match=r"DeBERTa v1.*export it with"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("inside", ["", "0_Transformer"])
def test_the_transformer_in_a_folder_of_sentence_transformers(
    inside: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    expected = ours(folder)
    outer = tmp_path_factory.mktemp("st")
    folder.rename(outer / "0_Transformer")
    if not inside:
        outer = outer / "0_Transformer"
    modules = [("0", inside, "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2", "Normalize")]
    (outer / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": int(n),
                    "name": n,
                    "path": path,
                    "type": f"sentence_transformers.models.{k}",
                }
                for n, path, k in modules
            ]
        )
    )
    assert torch.equal(ours(outer), expected)
    notes = open_checkpoint(outer).notes
    assert "Pooling, Normalize" in notes[-1]
    assert len(notes) == (2 if inside else 1)


@pytest.mark.parametrize(
    "content", ["{", "3", '[{"path": ""}]', '[{"type": "a.Transformer", "path": "../x"}]']
)
def test_a_broken_list_of_modules(content: str, folder: Path) -> None:
    (folder / "modules.json").write_text(content)
    with pytest.raises(InputError, match=r"modules\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize("terms", ["p2c|c2p|p2p", ["p2p"], "c2p|p2p"])
def test_p2p_is_left_out_as_transformers_does(terms: object, folder: Path) -> None:
    fields, task = random_config(SEED)
    fields |= {"pos_att_type": terms, "relative_attention": True}
    model = random_model(fields, task, SEED)
    model.save_pretrained(folder)
    inputs = random_inputs(fields, task, 2, 9, 0)
    checkpoint = open_checkpoint(folder)
    with torch.no_grad():
        if terms == ["p2p"]:  # transformers has nothing to add there, and fails
            model = random_model({**fields, "pos_att_type": []}, task, SEED)
        expected = model(**inputs)[0]
        found = load_model(checkpoint)(**inputs)[0]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert [note for note in checkpoint.notes if "p2p" in note]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"label2id": {"LABEL_0": 1, "LABEL_1": 0}, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}},
         "label2id contradicts"),
        ({"id2label": {"0": "yes", "1": "yes"}, "label2id": {"yes": 1}}, "several classes"),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": None, "num_labels": 3}, "num_labels is 3"),
        ({"problem_type": "single_label"}, "problem_type is 'single_label'"),
        ({"activation_fn": "x", "surprise": 1}, "nothing reads: activation_fn, surprise"),
        ({"id2label": {"0": "a"}, "label2id": None,
          "sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "torch.nn.Tanh"),
    ],
)  # fmt: skip
def test_what_a_configuration_says_in_vain_is_a_note(
    fields: dict[str, Any], said: str, folder: Path
) -> None:
    from exporter.deberta.configuration import DebertaConfig

    raw = {"model_type": "deberta-v2", **fields}
    (note,) = DebertaConfig.from_dict(raw).notes
    assert said in note
    assert DebertaConfig.from_folder(folder).notes == ()
