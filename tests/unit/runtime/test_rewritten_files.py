"""A folder that another program wrote into runs while it means the same; a damaged one does not."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import transformers

from exporter.errors import InputError
from exporter.runtime.load import load

TEXTS = ["a good film", "Größe 👍 and the [SEP]"]


@pytest.fixture
def folder(make_artifact: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_artifact("sequence-classification"), tmp_path / "artifact"))


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_what_transformers_writes_anew_still_runs(folder: Path) -> None:
    with load(folder) as session:
        expected = session(TEXTS)
    transformers.AutoConfig.from_pretrained(folder).save_pretrained(folder)
    change(folder / "tokenizer_config.json", model_max_length=8, added_by="another program")
    with pytest.warns(UserWarning, match=r"config\.json, tokenizer_config\.json rewritten"):
        session = load(folder)
    with session:
        assert session(TEXTS) == expected
    (folder / "added.bin").write_bytes(b"another program's own")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(folder).close()


def test_what_means_something_else_is_refused(folder: Path) -> None:
    config, tokenizer = folder / "config.json", folder / "tokenizer_config.json"
    for path, fields, says in (
        (config, {"id2label": {"0": "x", "1": "y"}}, "another model"),
        (tokenizer, {"do_lower_case": True}, "other token ids"),
        (tokenizer, {"truncation_side": "left"}, "other token ids"),
    ):
        before = path.read_text()
        change(path, **fields)
        with pytest.raises(InputError, match=says):
            load(folder)
        path.write_text(before)
    load(folder).close()


def test_damage_is_refused(folder: Path) -> None:
    for name, says in (("model.onnx", "the manifest says"), ("spm.model", "spm.model")):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-40])
        with pytest.raises(InputError, match=says):
            load(folder)
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: is not valid JSON"):
        load(folder)
