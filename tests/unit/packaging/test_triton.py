"""Model repositories, read back with the server's own definition of the configuration."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from google.protobuf import text_format

from exporter.artifact.engine_record import EngineOptions, EngineRecord
from exporter.artifact.files import record
from exporter.artifact.manifest import Manifest, ParitySummary, Source
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.model.model_shape import ModelShape
from exporter.model.profile import Range, ShapeProfile
from exporter.model.task import ARCHITECTURES, Task
from exporter.packaging.triton import TritonOptions, package_triton

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeCheckpoint = Callable[..., Path]
BATCH, SEQ = Range(1, 4, 16), Range(1, 32, 128)


@pytest.fixture(scope="module")
def service() -> Any:
    """The server's own definitions."""
    return pytest.importorskip(
        "tritonclient.grpc.model_config_pb2", reason="tritonclient is not installed"
    )


@pytest.fixture(scope="module")
def graphs(
    make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, ModelShape]]:
    """Exports each head once."""
    made: dict[str, tuple[Path, ModelShape]] = {}

    def make(task: str) -> tuple[Path, ModelShape]:
        if task not in made:
            path = tmp_path_factory.mktemp(task) / "model.onnx"
            folder = make_checkpoint(task, num_hidden_layers=1, type_vocab_size=2)
            checkpoint = open_checkpoint(folder, None)
            export_onnx(checkpoint, path)
            made[task] = path, checkpoint.shape
        return made[task]

    return make


@pytest.fixture
def artifact(
    graphs: Callable[[str], tuple[Path, ModelShape]], tmp_path: Path
) -> Callable[..., Any]:
    """Makes an artifact with a graph and a file that stands for an engine."""

    def make(task: str = "sequence-classification") -> tuple[Path, Manifest]:
        folder = tmp_path / "my model"
        folder.mkdir()
        path, shape = graphs(task)
        shutil.copy(path, folder)
        (folder / "model.plan").write_bytes(b"engine")
        return folder, Manifest(
            tool="deb-export 0",
            created="2026-01-01T00:00:00+00:00",
            source=Source("x", False, ()),
            precision="fp32",
            targets=("onnx",),
            task=shape.task.value,
            inputs=shape.inputs,
            outputs=shape.outputs,
            batch=BATCH,
            seq=SEQ,
            labels=dict(shape.id2label),
            model={},
            graph={},
            environment={},
            parity=ParitySummary(True, "parity.json"),
            limits=(),
            seconds={},
            files=(record(folder / "model.onnx"), record(folder / "model.plan")),
        )

    return make


def engine(*profiles: ShapeProfile, target: str = "tensorrt") -> EngineRecord:
    return EngineRecord(
        target,
        "model.plan",
        "model.layers.json",
        "11.4.0",
        profiles or (ShapeProfile(BATCH, SEQ),),
        EngineOptions(),
        6,
        None,
        None,
        "expanded",
        {},
        {},
        1.0,
        1,
    )


def read(service: Any, folder: Path) -> Any:
    """The configuration as the server reads it; unknown fields and types are errors."""
    text = (folder / "config.pbtxt").read_text()
    return text_format.Parse(text, service.ModelConfig())


def test_warm_up_stays_within_the_profile(
    service: Any, artifact: Callable[..., Any], tmp_path: Path
) -> None:
    folder, manifest = artifact("base")
    profile = ShapeProfile(Range(2, 8, 16), SEQ)
    _, plan = package_triton(folder, manifest, [engine(profile)], tmp_path / "models")
    config = read(service, plan.folder)
    assert [item.batch_size for item in config.model_warmup] == [2, 8]


@pytest.mark.parametrize("task", ARCHITECTURES.values())
def test_every_head(task: Task, service: Any, artifact: Callable[..., Any], tmp_path: Path) -> None:
    folder, manifest = artifact(task.value)
    repository = tmp_path / "models"
    written = package_triton(folder, manifest, [engine()], repository)
    assert [model.backend for model in written] == ["onnxruntime", "tensorrt"]
    for model in written:
        config = read(service, model.folder)
        assert config.name == model.folder.name == model.name
        assert config.backend == model.backend
        assert (model.folder / "1" / config.default_model_filename).is_file()
        assert [item.name for item in config.input] == list(manifest.inputs)
        assert [item.name for item in config.output] == list(manifest.outputs)
        rank = 2 if task is Task.MULTIPLE_CHOICE else 1
        assert all(item.data_type == service.TYPE_INT64 for item in config.input)
        assert all(list(item.dims) == [-1] * rank for item in config.input)
        assert all(item.data_type == service.TYPE_FP32 for item in config.output)
        assert config.max_batch_size == 16
        assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
        assert config.dynamic_batching.max_queue_delay_microseconds == 1000
        assert config.version_policy.latest.num_versions == 1
        (group,) = config.instance_group
        assert group.count == 1
        assert (group.kind == service.ModelInstanceGroup.KIND_GPU) == (model.backend == "tensorrt")
        assert [item.batch_size for item in config.model_warmup] == [1, 4]
        for item in config.model_warmup:
            assert set(item.inputs) == set(manifest.inputs)
            assert all(list(value.dims)[-1] == 32 for value in item.inputs.values())
    expected = {
        Task.SEQUENCE_CLASSIFICATION: [2],
        Task.TOKEN_CLASSIFICATION: [-1, 2],
        Task.MULTIPLE_CHOICE: [-1],
        Task.QUESTION_ANSWERING: [-1],
        Task.BASE: [-1, 24],
        Task.MASKED_LM: [-1, 1616],
    }[task]
    assert all(list(item.dims) == expected for item in read(service, written[0].folder).output)


def test_labels_lie_beside_the_configuration(
    service: Any, artifact: Callable[..., Any], tmp_path: Path
) -> None:
    folder, manifest = artifact()
    manifest = replace(manifest, labels={1: "good", 0: "bad"})
    (model,) = package_triton(folder, manifest, [], tmp_path / "models")
    assert model.name == "my-model_onnx"
    assert read(service, model.folder).output[0].label_filename == "labels.txt"
    assert (model.folder / "labels.txt").read_text() == "bad\ngood\n"


def test_a_label_is_one_line(artifact: Callable[..., Any], tmp_path: Path) -> None:
    folder, manifest = artifact()
    odd = {0: 'so\nso "x"', 1: "a\tb\u2028c\x1b[31m", 2: "größer \\n"}
    (model,) = package_triton(folder, replace(manifest, labels=odd), [], tmp_path / "models")
    assert (model.folder / "labels.txt").read_text().splitlines() == [
        r'so\nso "x"', r"a\tb\u2028c\x1b[31m", r"größer \n",
    ]  # fmt: skip


def test_profiles_of_an_engine_are_used(
    service: Any, artifact: Callable[..., Any], tmp_path: Path
) -> None:
    folder, manifest = artifact()
    two = engine(ShapeProfile.parse("1,1,1x1,8,16"), ShapeProfile.parse("1,8,64x1,32,128"))
    options = TritonOptions("m", instances=3, queue_microseconds=0)
    models = package_triton(folder, manifest, [two], tmp_path / "models", options)
    config = read(service, models[1].folder)
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert config.instance_group[0].count == 3
    assert config.max_batch_size == 64
    assert config.dynamic_batching.max_queue_delay_microseconds == 0


def test_an_engine_of_tensorrt_rtx_is_left_out(
    artifact: Callable[..., Any], tmp_path: Path
) -> None:
    folder, manifest = artifact()
    models = package_triton(folder, manifest, [engine(target="tensorrt-rtx")], tmp_path / "models")
    assert [model.backend for model in models] == ["onnxruntime"]


SEVEN, EIGHT = ({"quantization": {"weight_bits": bits}} for bits in (7, 8))
BF16 = {"half": {"dtype": "bf16"}}


@pytest.mark.parametrize(
    ("precision", "graph", "device", "expected"),
    [
        ("fp32", {}, "auto", "KIND_AUTO"),
        ("fp32", {}, "cpu", "KIND_CPU"),
        ("bf16", BF16, "auto", "KIND_GPU"),
        ("int8", {**SEVEN, **BF16}, "auto", "KIND_GPU"),
        ("int8", SEVEN, "auto", "KIND_AUTO"),
        ("int8", EIGHT, "auto", "KIND_GPU"),
        ("int8", EIGHT, "cpu", "KIND_CPU"),
        ("fp8", EIGHT, "auto", "KIND_AUTO"),
    ],
)
def test_a_graph_goes_where_it_is_right(
    precision: str,
    graph: dict[str, Any],
    device: str,
    expected: str,
    service: Any,
    artifact: Callable[..., Any],
    tmp_path: Path,
) -> None:
    folder, manifest = artifact()
    manifest = replace(manifest, precision=precision, graph=graph)
    options = TritonOptions(device=device)
    onnx_model, plan = package_triton(folder, manifest, [engine()], tmp_path / "models", options)
    config = read(service, onnx_model.folder)
    assert config.instance_group[0].kind == getattr(service.ModelInstanceGroup, expected)
    assert config.optimization.graph.level == (-1 if precision == "fp8" else 0)
    group = read(service, plan.folder).instance_group[0]
    assert group.kind == service.ModelInstanceGroup.KIND_GPU


def test_bf16_is_not_for_a_cpu(artifact: Callable[..., Any], tmp_path: Path) -> None:
    folder, manifest = artifact()
    manifest = replace(manifest, precision="bf16", graph=BF16)
    with pytest.raises(InputError, match="no bf16 on a CPU; leave --device cpu out, or build fp16"):
        package_triton(folder, manifest, [], tmp_path / "models", TritonOptions(device="cpu"))
    assert not (tmp_path / "models").exists()


def test_weights_in_a_file_of_their_own_go_along(
    artifact: Callable[..., Any], tmp_path: Path
) -> None:
    folder, manifest = artifact()
    model_proto = onnx.load(folder / "model.onnx")
    onnx.save(
        model_proto,
        folder / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    manifest = replace(manifest, files=(record(folder / "model.onnx"),))
    (model,) = package_triton(folder, manifest, [], tmp_path / "models")
    assert (model.folder / "1" / "model.onnx.data").is_file()


def test_a_second_version_joins_the_first(artifact: Callable[..., Any], tmp_path: Path) -> None:
    folder, manifest = artifact()
    repository = tmp_path / "models"
    package_triton(folder, manifest, [], repository)
    with pytest.raises(InputError, match="exists; choose another --version"):
        package_triton(folder, manifest, [], repository)
    (model,) = package_triton(folder, manifest, [], repository, TritonOptions(version=2))
    assert {path.name for path in model.folder.iterdir()} == {
        "1",
        "2",
        "config.pbtxt",
        "labels.txt",
    }
    with pytest.raises(InputError, match="other options"):
        package_triton(folder, manifest, [], repository, TritonOptions(version=3, instances=2))
    assert [path.name for path in repository.iterdir()] == ["my-model_onnx"]


def test_a_changed_artifact_is_refused(artifact: Callable[..., Any], tmp_path: Path) -> None:
    folder, manifest = artifact()
    (folder / "model.plan").write_bytes(b"another")
    with pytest.raises(InputError, match=r"model\.plan changed"):
        package_triton(folder, manifest, [], tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_repository_that_cannot_be_written(artifact: Callable[..., Any], tmp_path: Path) -> None:
    folder, manifest = artifact()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="a part of the path is a file"):
        package_triton(folder, manifest, [], tmp_path / "file")


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"name": "a/b"}, "--name"),
        ({"name": ""}, "--name"),
        ({"version": 0}, "--version"),
        ({"instances": 0}, "--instances"),
        ({"device": "npu"}, "--device"),
        ({"queue_microseconds": -1}, "--queue-delay"),
    ],
)
def test_options_out_of_range(fields: dict[str, Any], names: str) -> None:
    with pytest.raises(InputError, match=names):
        TritonOptions(**fields)
