"""The streaming writer against the onnx package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.tape import Tape

from exporter.errors import InputError
from exporter.graph import write
from exporter.graph.write import write_model

ARRAYS = {
    "empty": np.zeros((0, 3), dtype=np.float32),
    "scalar": np.array(3.5, dtype=np.float32),
    "matrix": np.random.default_rng(0).normal(size=(70, 90)).astype(np.float32),
    "transposed": np.random.default_rng(1).normal(size=(70, 90)).astype(np.float32).T,
    "half": np.linspace(-3, 3, 999, dtype=np.float16),
    "bfloat16": np.linspace(-3, 3, 999).astype(ml_dtypes.bfloat16),
    "float8": np.linspace(-3, 3, 2000).astype(ml_dtypes.float8_e4m3fn),
    "int8": np.arange(-128, 128, dtype=np.int8).repeat(9),
    "int32": np.arange(3, dtype=np.int32),
}


def model_of(arrays: dict[str, np.ndarray]) -> ir.Model:
    values = []
    for name, array in arrays.items():
        tensor = ir.tensor(array, name=name)
        kind = ir.TensorType(tensor.dtype)
        values.append(
            ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
        )
    tape = Tape()
    outputs = [tape.op("Identity", [value]) for value in values]
    graph = ir.Graph(
        [], outputs, nodes=tape.nodes, initializers=values, opset_imports={"": 20}, name="g"
    )
    return ir.Model(graph, ir_version=10, producer_name="test")


def test_weights_beyond_protobuf_are_refused_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "EMBEDDED_UP_TO", 1000)
    with pytest.raises(InputError, match="leave out --no-external-data"):
        write_model(model_of(ARRAYS), tmp_path / "model.onnx", external_data=False)
    assert list(tmp_path.iterdir()) == []
    write_model(model_of(ARRAYS), tmp_path / "model.onnx", external_data=True)


@pytest.mark.parametrize("external", [False, True])
def test_onnx_reads_back_what_was_written(external: bool, tmp_path: Path) -> None:
    model = model_of(ARRAYS)
    path = tmp_path / "model.onnx"
    _, weight_bytes = write_model(model, path, external_data=external)
    assert weight_bytes == sum(array.nbytes for array in ARRAYS.values())
    read = onnx.load(path)
    assert read.producer_name == "test"
    assert len(read.graph.node) == len(ARRAYS)
    held = {tensor.name: tensor for tensor in read.graph.initializer}
    assert list(held) == list(ARRAYS)
    for name, array in ARRAYS.items():
        back = onnx.numpy_helper.to_array(held[name])
        assert back.shape == array.shape
        assert back.tobytes() == np.ascontiguousarray(array).tobytes()
    # The model itself is left as it was.
    assert set(model.graph.initializers) == set(ARRAYS)


def test_external_tensors_start_at_aligned_offsets(tmp_path: Path) -> None:
    write_model(model_of(ARRAYS), tmp_path / "model.onnx", external_data=True)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    offsets = [
        int(entry.value)
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    ]
    assert len(offsets) > 3
    assert all(offset % 4096 == 0 for offset in offsets)


def test_lengths_across_every_varint_boundary(tmp_path: Path) -> None:
    sizes = (1, 31, 32, 33, 4095, 4096, 4097, 524287, 524288, 524289)
    arrays = {f"t{size}": np.full(size, size, dtype=np.float32) for size in sizes}
    write_model(model_of(arrays), tmp_path / "model.onnx")
    held = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(held[name], array)


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_write import model_of
from exporter.graph.write import write_model
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    weights = {"w": np.ones(1 << 20, np.float32)}
    write_model(model_of(weights), Path(sys.argv[1]), external_data=True)
except OSError as error:
    print("OSError", error.errno)
"""


def test_a_disk_that_fills_up_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    command = [sys.executable, "-c", LIMITED, str(path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OSError"), done.stderr
    assert not list(tmp_path.iterdir())
