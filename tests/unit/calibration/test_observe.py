"""Observed statistics of exported graphs against hooks on `transformers`, and of small graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from numpy.typing import NDArray
from support.random_models import random_config, random_inputs, random_model

from calibration.calibration_error import CalibrationError
from calibration.collectors import TensorStatistics
from calibration.observe import observe
from calibration.resume import Resume
from exporter.deberta.checkpoint import open_checkpoint
from exporter.errors import InputError
from exporter.graph.export import export_onnx
from exporter.runtime.providers.onnx_session import open_fp32

pytestmark = pytest.mark.usefixtures("shared_traces")

SHAPES = ((2, 9), (3, 1), (1, 33), (4, 17), (5, 2))
Feeds = dict[str, NDArray[np.int64]]


class Model:
    """A random checkpoint, its graph, its batches, and the inputs of its linear layers."""

    def __init__(self, folder: Path, seed: int) -> None:
        fields, task = random_config(seed)
        self.reference = random_model(fields, task, seed)
        self.reference.save_pretrained(folder)
        self.path = folder / "model.onnx"
        export_onnx(open_checkpoint(folder), self.path)
        longest = fields["max_position_embeddings"]
        shapes = [(batch, min(length, longest)) for batch, length in SHAPES]
        inputs = [random_inputs(fields, task, *shape, seed) for shape in shapes]
        self.inputs = inputs
        self.batches: list[Feeds] = [{k: v.numpy() for k, v in item.items()} for item in inputs]
        self.tensors = self.site_inputs()

    def site_inputs(self) -> dict[str, str]:
        """Module of `transformers` -> value that its linear layer reads in the graph."""
        graph = onnx.load(str(self.path), load_external_data=False).graph
        modules = dict(self.reference.named_modules())
        found = {}
        for node in graph.node:
            if node.op_type == "MatMul" and node.input[1].endswith(".weight"):
                # The query projection may be shared with the positions: its parent is not.
                name = node.input[1].removesuffix(".weight").removesuffix(".qkv")
                if name in modules:
                    found[name] = node.input[0]
        assert len(found) >= 4 * self.reference.config.num_hidden_layers
        return found

    def hooked(self, *, padding: bool = False) -> dict[str, NDArray[np.float32]]:
        """Rows that went into each module, (n, C)."""
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in self.tensors}
        mask = torch.zeros(0)

        def hook(name: str) -> Callable[..., None]:
            def keep(module: Any, args: Any) -> None:
                flat = args[0].reshape(-1, args[0].shape[-1])
                valid = mask.reshape(-1).bool() | padding
                per_token = args[0].dim() == 3 and len(flat) == len(valid)
                rows[name].append(flat[valid] if per_token else flat)

            return keep

        modules = dict(self.reference.named_modules())
        handles = [modules[name].register_forward_pre_hook(hook(name)) for name in rows]
        for item in self.inputs:
            mask = item["attention_mask"]
            with torch.no_grad():
                self.reference(**item)
        for handle in handles:
            handle.remove()
        return {name: torch.cat(parts).numpy() for name, parts in rows.items()}


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Model]:
    made: dict[int, Model] = {}

    def make(seed: int) -> Model:
        if seed not in made:
            made[seed] = Model(tmp_path_factory.mktemp("model"), seed)
        return made[seed]

    return make


@pytest.fixture(params=[0, 2, 5])  # base, sequence classification, multiple choice
def model(request: pytest.FixtureRequest, make_model: Callable[[int], Model]) -> Model:
    return make_model(request.param)


@pytest.fixture
def small(make_model: Callable[[int], Model]) -> Model:
    return make_model(2)


def observed(model: Model, path: Path | None = None, **options: Any) -> dict[str, TensorStatistics]:
    tensors = list(model.tensors.values())
    return observe(path or model.path, tensors, model.batches, open_fp32, **options)


def require_equal(first: dict[str, TensorStatistics], second: dict[str, TensorStatistics]) -> None:
    """The same statistics but for the rounding of the runtime, which may follow the shape."""
    assert list(first) == list(second)
    for name, one in first.items():
        other = second[name]
        assert one.rows == other.rows
        scale = one.channel_amax.max()
        np.testing.assert_allclose(one.channel_min, other.channel_min, atol=1e-5 * scale)
        np.testing.assert_allclose(one.channel_max, other.channel_max, atol=1e-5 * scale)
        np.testing.assert_allclose(one.channel_mean, other.channel_mean, atol=1e-5 * scale)
        np.testing.assert_allclose(one.sample, other.sample, atol=1e-5 * scale)


def test_statistics_are_those_of_the_hooked_inputs(model: Model) -> None:
    found = observed(model)
    for module, rows in model.hooked().items():
        statistics = found[model.tensors[module]]
        scale = float(np.abs(rows).max())
        assert statistics.rows == len(rows)
        assert statistics.histogram.total == rows.size
        close = {"rtol": 0, "atol": 1e-5 * scale}
        np.testing.assert_allclose(statistics.channel_min, rows.min(axis=0), **close)
        np.testing.assert_allclose(statistics.channel_max, rows.max(axis=0), **close)
        np.testing.assert_allclose(statistics.channel_mean, rows.mean(axis=0), **close)
        np.testing.assert_allclose(
            np.sqrt(statistics.channel_mean_square), np.sqrt((rows**2).mean(axis=0)), **close
        )
        median = np.percentile(np.abs(rows), 50, method="inverted_cdf")
        assert statistics.threshold("percentile", percentile=50) == pytest.approx(
            median, rel=2e-3, abs=1e-5 * scale
        )


def test_padding_would_have_changed_the_statistics(model: Model) -> None:
    # Otherwise the test above could not tell.
    valid, padded = model.hooked(), model.hooked(padding=True)
    assert any(len(padded[name]) > len(rows) for name, rows in valid.items())


def external(model: Model, folder: Path) -> Path:
    """The same model with its weights in a data file."""
    path = folder / "outside.onnx"
    onnx.save(
        onnx.load(str(model.path)),
        str(path),
        save_as_external_data=True,
        location="outside.data",
        size_threshold=64,
    )
    return path


def test_weights_in_a_data_file_stay_there(small: Model, tmp_path: Path) -> None:
    path = external(small, tmp_path)
    files = {item.name: item.stat().st_size for item in tmp_path.iterdir()}
    assert files["outside.data"] > files["outside.onnx"] / 2
    require_equal(observed(small, path), observed(small))
    assert {item.name: item.stat().st_size for item in tmp_path.iterdir()} == files


def test_the_size_of_a_run_changes_nothing(small: Model) -> None:
    whole = observed(small, sample_rows=20)
    assert all(len(item.sample) == 20 for item in whole.values())
    for run_bytes in (1, 20_000, 200_000):
        require_equal(observed(small, sample_rows=20, run_bytes=run_bytes), whole)


def test_samples_are_of_the_same_tokens(small: Model) -> None:
    found = observed(small, sample_rows=15)
    hooked = small.hooked()
    last = list(small.tensors)[-1]  # there every token has its own row
    distance = np.abs(found[small.tensors[last]].sample[:, None] - hooked[last][None]).max(axis=2)
    order = distance.argmin(axis=1)
    assert len(set(order)) == 15
    for module, tensor in small.tensors.items():
        rows = hooked[module]
        scale = np.abs(rows).max()
        np.testing.assert_allclose(found[tensor].sample, rows[order], rtol=0, atol=1e-5 * scale)


def test_progress_is_told_from_the_start_to_the_end(small: Model) -> None:
    told: list[tuple[int, int]] = []
    observed(small, progress=lambda done, total: told.append((done, total)))
    assert told == [(index, 5) for index in range(6)]


class Stop(KeyboardInterrupt):
    pass


def interrupted(model: Model, resume: Resume, after: int, **options: Any) -> None:
    def stop(done: int, total: int) -> None:
        if done == after:
            raise Stop

    with pytest.raises(Stop):
        observed(model, resume=resume, progress=stop, **options)


def first_told(model: Model, resume: Resume, **options: Any) -> int:
    """Number of batches that need no run."""
    told: list[int] = []
    observed(model, resume=resume, progress=lambda done, total: told.append(done), **options)
    return told[0]


@pytest.mark.parametrize("after", [1, 3, 4])
def test_an_interrupted_observation_goes_on(small: Model, tmp_path: Path, after: int) -> None:
    resume = Resume(tmp_path / "state", "model", seconds=0)
    interrupted(small, resume, after, sample_rows=10)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    told: list[int] = []
    found = observed(
        small, resume=resume, sample_rows=10, progress=lambda done, total: told.append(done)
    )
    assert told == list(range(after, 6))
    whole = observed(small, sample_rows=10)
    require_equal(found, whole)
    for name, item in whole.items():
        np.testing.assert_array_equal(item.histogram.counts, found[name].histogram.counts)
    # Complete, it needs no run at all.
    assert first_told(small, resume, sample_rows=10) == 5


def test_the_state_is_saved_at_intervals(small: Model, tmp_path: Path) -> None:
    resume = Resume(tmp_path / "state", "model", seconds=3600)
    interrupted(small, resume, 4)
    assert not resume.file.exists()
    observed(small, resume=resume)
    assert resume.file.exists()


def test_another_observation_is_not_resumed(small: Model, tmp_path: Path) -> None:
    resume = Resume(tmp_path / "state", "model", seconds=0)
    interrupted(small, resume, 3)
    saved = resume.file.read_bytes()

    def done(resume: Resume = resume, **options: Any) -> int:
        resume.file.write_bytes(saved)
        return first_told(small, resume, **options)

    assert done() == 3
    assert done(Resume(resume.file, "another model")) == 0
    assert done(sample_rows=5) == 0
    batches = small.batches
    try:
        changed = {name: array.copy() for name, array in batches[4].items()}
        changed["input_ids"][0, 0] ^= 1
        small.batches = [*batches[:4], changed]
        assert done() == 0
        small.batches = batches[:4]
        assert done() == 0
    finally:
        small.batches = batches


@pytest.mark.parametrize("broken", ["cut", "text", "empty", "array", "flipped", "folder"])
def test_a_broken_state_is_ignored(small: Model, tmp_path: Path, broken: str) -> None:
    resume = Resume(tmp_path / "state", "model", seconds=3600)
    interrupted(small, Resume(resume.file, "model", seconds=0), 3)
    content = resume.file.read_bytes()
    if broken == "array":
        with resume.file.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif broken == "folder":
        resume.file.unlink()
        resume.file.mkdir()
        with pytest.raises(OSError, match="state"):
            first_told(small, resume)
        return
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
        resume.file.write_bytes(
            {"cut": content[:middle], "text": b"text", "empty": b"", "flipped": flipped}[broken]
        )
    told: list[int] = []
    found = observed(small, resume=resume, progress=lambda done, total: told.append(done))
    assert told[0] == 0
    require_equal(found, observed(small))


def write(folder: Path, text: str) -> Path:
    path = folder / "small.onnx"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}'), path)
    return path


GRAPH = """
g (int64[B, S] input_ids, int64[B, S] attention_mask) => (float[B, S, 1] y, int64[B, S] z)
<float[B, S, 1] x, float[B, 1, S] turned, float[B, S] plain, int64[1] last = {-1}> {
    plain = Cast<to=1>(input_ids)
    x = Unsqueeze(plain, last)
    turned = Transpose<perm=[0, 2, 1]>(x)
    y = Log(x)
    z = Identity(attention_mask)
}"""


def feeds(ids: list[list[int]], mask: list[list[int]]) -> Feeds:
    return {"input_ids": np.array(ids), "attention_mask": np.array(mask)}


def test_values_of_all_shapes(tmp_path: Path) -> None:
    path = write(tmp_path, GRAPH)
    batches = [feeds([[1, 2, 9], [3, 9, 9]], [[1, 1, 0], [1, 0, 0]]), feeds([[5]], [[1]])]
    found = observe(path, ["x", "y", "turned", "x"], batches, open_fp32)
    assert list(found) == ["x", "y", "turned"]
    assert (found["x"].rows, found["x"].maximum, found["x"].minimum) == (4, 5.0, 1.0)
    assert found["x"].channel_mean.tolist() == [11 / 4]
    # An output of the graph can be observed like any other value.
    assert found["y"].maximum == pytest.approx(np.log(5), rel=1e-6)
    # Turned, the channels are not where padding could be told: all values count, as one channel.
    assert (found["turned"].rows, found["turned"].maximum) == (7, 9.0)


def test_a_batch_of_padding_only_counts_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, GRAPH)
    padding = feeds([[7, 7]], [[0, 0]])
    found = observe(path, ["x"], [padding, feeds([[2]], [[1]])], open_fp32)
    assert (found["x"].rows, found["x"].maximum) == (1, 2.0)
    with pytest.raises(CalibrationError, match="x: no token was observed"):
        observe(path, ["x"], [padding], open_fp32)


def test_without_a_mask_all_rows_count(tmp_path: Path) -> None:
    path = write(tmp_path, GRAPH.replace("attention_mask", "other"))
    batch = {"input_ids": np.array([[1, 2], [3, 4]]), "other": np.array([[1, 0], [0, 0]])}
    assert observe(path, ["x"], [batch], open_fp32)["x"].rows == 4


def test_inputs_that_the_model_does_not_have_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, GRAPH)
    batch = {**feeds([[1, 2]], [[1, 0]]), "token_type_ids": np.zeros((1, 2), np.int64)}
    assert observe(path, ["x"], [batch], open_fp32)["x"].rows == 1


def test_nan_and_infinity_name_the_tensor(tmp_path: Path) -> None:
    path = write(tmp_path, GRAPH)
    for bad in (-3, 0):  # log of it is NaN, or minus infinity
        with pytest.raises(CalibrationError, match="y: NaN or infinite"):
            observe(path, ["x", "y"], [feeds([[1, bad]], [[1, 1]])], open_fp32)
    # At a padded position it does not count.
    assert observe(path, ["y"], [feeds([[1, -3]], [[1, 0]])], open_fp32)["y"].rows == 1


def test_what_the_graph_does_not_have_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, GRAPH)
    batches = [feeds([[1]], [[1]])]
    for name in ("nothing", "input_ids", "last"):
        with pytest.raises(CalibrationError, match=f"no value named '{name}'"):
            observe(path, ["x", name], batches, open_fp32)
    with pytest.raises(CalibrationError, match="'z' is not float32"):
        observe(path, ["z"], batches, open_fp32)
    with pytest.raises(CalibrationError, match="no calibration text"):
        observe(path, ["x"], [], open_fp32)


def test_models_that_do_not_run_are_refused(tmp_path: Path) -> None:
    batches = [feeds([[1]], [[1]])]
    with pytest.raises(CalibrationError, match="no such file"):
        observe(tmp_path / "none.onnx", ["x"], batches, open_fp32)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 50)
    with pytest.raises(CalibrationError, match="not an ONNX file"):
        observe(broken, ["x"], batches, open_fp32)
    unknown = write(tmp_path, GRAPH.replace("Log", "Nonsense"))
    with pytest.raises(InputError, match="cannot load it"):
        observe(unknown, ["x"], batches, open_fp32)
    path = write(tmp_path, GRAPH)
    wrong = {**batches[0], "input_ids": np.ones((1, 1, 1), np.int64)}
    with pytest.raises(InputError, match="fails on inputs of shape"):
        observe(path, ["x"], [wrong], open_fp32)
    with pytest.raises(ValueError, match=r"inputs of \[1, 2\] rows"):
        observe(path, ["x"], [feeds([[1], [2]], [[1]])], open_fp32)


def test_missing_weights_are_named(small: Model, tmp_path: Path) -> None:
    path = external(small, tmp_path)
    (tmp_path / "outside.data").unlink()
    with pytest.raises(InputError, match="cannot load it"):
        observed(small, path)
