"""A folder as the Hugging Face hub has it, from artifacts of one checkpoint in several precisions.

The names are those that clients look for by themselves: `onnx/model.onnx` (optimum,
sentence-transformers), `model_fp16.onnx` and `model_quantized.onnx` (transformers.js's `fp16` and
`q8`), and `_data` at the end of the name for weights beside a graph.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.artifact.files import storage_error, sync, verify_files
from exporter.artifact.manifest import MODEL_FILE, Manifest
from exporter.artifact.onnx_file import external_files, open_onnx
from exporter.deberta.configuration import read_object
from exporter.deberta.tokenization import TOKENIZER_FILES
from exporter.errors import InputError
from exporter.model.task import ARCHITECTURES, Task
from exporter.packaging.model_card import Packaged, model_card

GRAPHS = {
    "fp32": "model.onnx",
    "fp16": "model_fp16.onnx",
    "int8": "model_quantized.onnx",
    "bf16": "model_bf16.onnx",
    "fp8": "model_fp8.onnx",
}
"""File names by precision. transformers.js has no name for the last two: `model_file_name` does."""
_CONFIG = "config.json"
_CARD = "README.md"


def package_hub(artifacts: Sequence[tuple[Path, Manifest]], target: Path) -> tuple[Path, ...]:
    """Write the folder `target`, which is there whole or not at all; its files, relative to it.

    Raises:
        InputError: the artifacts are not of one checkpoint, two have one precision, a file of one
            has changed, or `target` exists or cannot be written.
    """
    for folder, manifest in artifacts:
        if manifest.task == Task.GLINER:
            what = "a GLiNER artifact is what gliner loads as it is (load_onnx_model=True)"
            raise InputError(f"{folder}: {what}; copy the folder")
        problems = verify_files(folder, manifest.files)
        if problems:
            raise InputError(f"{folder}: {problems[0].path} {problems[0].problem}; build it again")
    _check_one_checkpoint(artifacts)
    if target.exists():
        raise InputError(f"{target}: exists; choose another folder")
    try:
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hub-", dir=target.absolute().parent) as place:
            made = Path(place) / target.name
            _write(artifacts, made)
            files = [path for path in sorted(made.rglob("*")) if path.is_file()]
            for path in [*made.rglob("*"), made]:
                sync(path)
            made.rename(target)
    except OSError as error:
        raise storage_error(error, target) or InputError(
            f"{target}: cannot be written ({error.strerror})"
        ) from error
    return tuple(path.relative_to(made) for path in files)


def _check_one_checkpoint(artifacts: Sequence[tuple[Path, Manifest]]) -> None:
    """Refuse artifacts that one `config.json` and one tokenizer cannot stand for."""
    (first, known), *others = artifacts
    seen = {known.precision: first}
    for folder, manifest in others:
        for what, ours, theirs in (
            ("head", known.task, manifest.task),
            ("checkpoint file", _sources(known), _sources(manifest)),
            ("config.json or tokenizer (--seq)", _shared(known), _shared(manifest)),
        ):
            if ours != theirs:
                raise InputError(
                    f"{folder}: not of the checkpoint that {first} is of: another {what}; "
                    "build both from it, with the same options"
                )
        if manifest.precision in seen:
            both = f"{seen[manifest.precision]} and {folder}"
            raise InputError(f"{both}: both are {manifest.precision}; leave one of them out")
        seen[manifest.precision] = folder


def _sources(manifest: Manifest) -> list[str]:
    return sorted(item.sha256 for item in manifest.source.files)


def _shared(manifest: Manifest) -> dict[str, str]:
    names = (_CONFIG, *TOKENIZER_FILES)
    return {item.path: item.sha256 for item in manifest.files if item.path in names}


def _write(artifacts: Sequence[tuple[Path, Manifest]], target: Path) -> None:
    (target / "onnx").mkdir(parents=True)
    packaged = []
    external = {}
    for folder, manifest in artifacts:
        name = GRAPHS[manifest.precision]
        if _write_graph(folder / MODEL_FILE, target / "onnx" / name):
            external[name] = 1
        size = sum(path.stat().st_size for path in (target / "onnx").glob(f"{name}*"))
        report = read_object(folder / manifest.parity.report)
        packaged.append(Packaged(f"onnx/{name}", size, manifest, report))
    folder, manifest = artifacts[0]
    for name in _shared(manifest):
        if name != _CONFIG:
            shutil.copyfile(folder / name, target / name)
    config = _config(read_object(folder / _CONFIG), Task(manifest.task), external)
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (target / _CONFIG).write_text(text, encoding="utf-8")
    (target / _CARD).write_text(model_card(target.name, packaged), encoding="utf-8")


def _write_graph(source: Path, target: Path) -> bool:
    """Copy a graph under another name, and its weights; whether these lie beside it."""
    model = open_onnx(source)
    beside = external_files(model)
    if not beside:
        shutil.copyfile(source, target)
        return False
    (name,) = beside  # the writer of graphs makes one file
    data = target.with_name(f"{target.name}_data")
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data.name
    target.write_bytes(model.SerializeToString(deterministic=True))
    shutil.copyfile(source.with_name(name), data)
    return True


def _config(config: Mapping[str, Any], task: Task, external: Mapping[str, int]) -> dict[str, Any]:
    """`config.json` with the head that the graphs have, and without paths of the builder."""
    known = {head: name for name, head in ARCHITECTURES.items()}
    changed = {name: value for name, value in config.items() if name != "_name_or_path"}
    changed |= {"model_type": "deberta-v2", "architectures": [known[task]]}
    if external:
        changed["transformers.js_config"] = {"use_external_data_format": dict(external)}
    return changed
