"""Models by their name on the hub, against a server on the loopback address.

`huggingface_hub` reads its settings when it is imported: each call is a process of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

from support.hub_server import COMMIT, hub_server

from exporter.artifact.files import record
from exporter.artifact.manifest import read_manifest
from exporter.deberta.hub_model import _wanted

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def model(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint among what else is on the hub."""
    source = make_checkpoint("sequence-classification", num_hidden_layers=1)
    folder = tmp_path_factory.mktemp("hub") / "model"
    shutil.copytree(source, folder)
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not wanted")
    return folder


def call(cache: Path, endpoint: str, *arguments: object, **settings: str) -> tuple[int, str]:
    """Exit code and all that the command says."""
    keep = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    known = {"HF_HUB_CACHE": str(cache), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "exporter", *map(str, arguments)],
        env={**keep, **known, "HF_HUB_DISABLE_TELEMETRY": "1", **settings},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_build_takes_what_it_needs_and_is_judged_by_its_commit(
    model: Path, texts_file: Path, tmp_path: Path
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "a"
    how = ("--target", "onnx", "--data", texts_file, "--output", out)
    with hub_server({"org/model": model}, token="hf_secret") as (endpoint, seen):
        code, said = call(cache, endpoint, "build", "org/model", *how, HF_TOKEN="hf_secret")
        assert code == 0, said
    fetched = {
        line.rpartition("/")[2] for line in seen if line.startswith("GET") and "/res" in line
    }
    wanted = {"config.json", "model.safetensors", "spm.model"}
    assert wanted <= fetched
    assert not fetched & {"pytorch_model.bin", "tf_model.h5", "README.md", "model.onnx"}
    source = read_manifest(out).source
    assert (source.hub, source.commit) == ("org/model", COMMIT)
    hashes = {item.path: item.sha256 for item in source.files}
    assert hashes["model.safetensors"] == record(model / "model.safetensors").sha256
    assert "hf_secret" not in (out / "manifest.json").read_text()

    # Where the cache is another one, the manifest's commit is fetched again.
    shutil.rmtree(cache)
    with hub_server({"org/model": model}) as (endpoint, _):
        code, said = call(tmp_path / "other", endpoint, "parity", out, "--no-reference-cache",
                          "--lengths", "3")  # fmt: skip
        assert code == 0 and "parity: pass" in said, said


def fetch(
    cache: Path, endpoint: str, name: str, *revision: str, **settings: str
) -> tuple[int, str]:
    """What `parity` says of a checkpoint on the hub that it is to compare with nothing."""
    at = ("--revision", *revision) if revision else ()
    return call(cache, endpoint, "parity", "--reference", name, "--candidate", "/no.onnx", *at,
                **settings)  # fmt: skip


def test_what_is_not_there_says_both(model: Path, tmp_path: Path) -> None:
    with hub_server({"org/model": model}, token="hf_secret") as (endpoint, seen):
        code, said = fetch(tmp_path, endpoint, "org/model")
        assert code == 2 and "no such folder" in said and "private: set HF_TOKEN" in said
        code, said = fetch(tmp_path, endpoint, "org/model", "v9", HF_TOKEN="hf_secret")
        assert code == 2 and "no revision 'v9'" in said
        code, said = fetch(tmp_path, endpoint, "org/model", "v1", HF_TOKEN="hf_secret")
        assert code == 2 and "/no.onnx: no such file" in said  # the other side
        count = len(seen)
        code, said = fetch(tmp_path, endpoint, str(model), "v1")
        assert code == 2 and "no side is a name on the hub" in said and len(seen) == count
    code, said = fetch(tmp_path, NOWHERE, "org/other")
    assert code == 2 and "no such folder" in said and "cannot be reached" in said
    assert "Traceback" not in said
    for settings in ({}, {"HF_HUB_OFFLINE": "1"}):
        code, said = fetch(tmp_path, NOWHERE, "org/model", "v1", **settings)
        assert f"the cached {COMMIT[:12]} is used" in said and "/no.onnx: no such file" in said


def test_the_files_of_a_build() -> None:
    files = (
        "config.json spm.model model.safetensors.index.json model-00001-of-00002.safetensors "
        "model-00002-of-00002.safetensors pytorch_model.bin optimizer.pt flax_model.msgpack "
        "adapter_model.bin adapter_config.json 1_Pooling/config.json 0_T/config.json "
        "0_T/pytorch_model.bin onnx/model.onnx deep/er/model.safetensors model.onnx"
    ).split()
    assert set(files) - set(_wanted(files)) == {
        "pytorch_model.bin", "optimizer.pt", "flax_model.msgpack", "onnx/model.onnx",
        "deep/er/model.safetensors", "model.onnx",
    }  # fmt: skip


def test_without_the_library() -> None:
    code = (
        "import sys; from exporter import cli; from exporter.deberta import hub_model\n"
        "hub_model.find_spec = lambda name: None\n"
        "sys.exit(cli.main(['build', 'org/model']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "no such folder" in done.stderr
    assert "deb-export[hub]" in done.stderr
