"""Sessions over torch and ONNX Runtime: the same answers, in order, however they are asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import exporter
from exporter.errors import InputError, MissingDependencyError
from exporter.model.task import ARCHITECTURES, Task
from exporter.runtime.batching import Batching, batches
from exporter.runtime.load import load
from exporter.runtime.session import Session, TruncationWarning

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]

INPUTS: dict[Task, list[Any]] = {
    Task.BASE: ["A text.", ("one", "two")],
    Task.MASKED_LM: ["A [MASK] text.", "No mask."],
    Task.SEQUENCE_CLASSIFICATION: ["Good.", ("one", "two"), ""],
    Task.TOKEN_CLASSIFICATION: ["Some words here.", ""],
    Task.QUESTION_ANSWERING: [("Who?", "Nobody, as far as I know."), ("Who?", "")],
    Task.MULTIPLE_CHOICE: [("It is", ("good", "bad", "neither")), ("So", ("a", "b"))],
}


def numbers(value: Any) -> list[float]:
    """Every float in a prediction, in order."""
    if isinstance(value, float):
        return [value]
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in numbers(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [n for name in value.__dataclass_fields__ for n in numbers(getattr(value, name))]
    return []


@pytest.mark.parametrize("task", ARCHITECTURES.values(), ids=str)
def test_every_head_runs_in_both_runtimes(task: Task, make_artifact: MakeArtifact) -> None:
    folder = make_artifact(task.value)
    texts = INPUTS[task]
    with load(folder) as onnx_session, load(folder, "torch") as torch_session:
        ours, reference = onnx_session(texts), torch_session(texts)
        assert onnx_session.input_names == torch_session.input_names
        assert onnx_session.output_names == torch_session.output_names
    assert len(ours) == len(texts)
    for first, second in zip(ours, reference, strict=True):
        assert type(first) is type(second)
        assert numbers(first) == pytest.approx(numbers(second), rel=1e-4, abs=1e-6)


def test_predictions_keep_the_order_of_the_texts(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("sequence-classification")
    texts = [f"{'very ' * (i * 7 % 23)}good number {i}" for i in range(71)]
    with load(folder) as session:
        together = session(texts)
        apart = [session([text])[0] for text in texts]
    assert [prediction.text for prediction in together] == texts
    for first, second in zip(together, apart, strict=True):
        assert numbers(first) == pytest.approx(numbers(second), rel=1e-4)


def test_batches_are_bounded_and_hold_every_text_once(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("token-classification")
    with load(folder) as session:
        assert isinstance(session, Session)
        assert session.text is not None
        examples = [session.text.encode("word " * (i % 13)) for i in range(50)]
        bounds = Batching(tokens=40, largest=7)
        found = list(batches(examples, session.shape, bounds))
    assert sorted(i for batch in found for i in batch) == list(range(50))
    assert max(map(len, found)) == 7
    lengths = [examples[i].length for batch in found for i in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch in found:
        assert len(batch) * max(examples[i].length for i in batch) <= 40


def test_runs_are_deterministic(make_artifact: MakeArtifact) -> None:
    ids = np.random.default_rng(3).integers(0, 1000, (3, 37))
    with load(make_artifact("base")) as session:
        first = session.run(input_ids=ids)
        second = session.run(input_ids=ids)
    assert np.array_equal(first["last_hidden_state"], second["last_hidden_state"])


def test_padding_does_not_change_the_answer(make_artifact: MakeArtifact) -> None:
    generator = np.random.default_rng(4)
    ids = generator.integers(3, 1000, (2, 19))
    padded = np.concatenate([ids, generator.integers(0, 1000, (2, 44))], axis=1)
    mask = (np.arange(63) < 19).astype(np.int64) * np.ones((2, 1), np.int64)
    with load(make_artifact("base")) as session:
        short = session.run(input_ids=ids)["last_hidden_state"]
        long = session.run(input_ids=padded, attention_mask=mask)["last_hidden_state"]
    assert np.abs(short - long[:, :19]).max() < 1e-5 * np.abs(short).max()


def test_long_texts_are_cut_with_a_warning(make_artifact: MakeArtifact) -> None:
    with load(make_artifact("sequence-classification")) as session:
        with pytest.warns(TruncationWarning, match="text cut to 160 tokens: 'word word"):
            (found,) = session(["word " * 400])
        assert (found.tokens_read, found.tokens_total, found.truncated) == (160, 402, True)


def test_short_and_empty_texts_give_no_warning(
    make_artifact: MakeArtifact, recwarn: pytest.WarningsRecorder
) -> None:
    with load(make_artifact("sequence-classification")) as session:
        assert len(session([""])) == 1
        assert session([]) == []
    assert not recwarn.list


@pytest.mark.parametrize(
    ("task", "texts", "message"),
    [
        (Task.SEQUENCE_CLASSIFICATION, "a text", "give a list"),
        (Task.SEQUENCE_CLASSIFICATION, [("a", ("b", "c"))], "takes at most two texts"),
        (Task.SEQUENCE_CLASSIFICATION, [3], "give a text"),
        (Task.SEQUENCE_CLASSIFICATION, ["\ud800"], "surrogate"),
        (Task.QUESTION_ANSWERING, ["who"], "takes a question and a context"),
        (Task.MULTIPLE_CHOICE, [("a", "b")], "takes a text and two or more choices"),
    ],
)
def test_texts_that_do_not_suit_the_task_are_refused(
    task: Task, texts: Any, message: str, make_artifact: MakeArtifact
) -> None:
    with load(make_artifact(task.value)) as session, pytest.raises(InputError, match=message):
        session(texts)


def test_a_closed_session_says_so(make_artifact: MakeArtifact) -> None:
    for provider in ("cpu", "torch"):
        session = load(make_artifact("base"), provider)
        session.close()
        with pytest.raises(InputError, match="closed"):
            session.run(input_ids=[[1]])


def test_load_is_exported_by_the_package(make_artifact: MakeArtifact) -> None:
    session = exporter.load(str(make_artifact("base")), threads=1)
    assert session.run(input_ids=[[1, 2]])["last_hidden_state"].shape == (1, 2, 24)
    session.close()


@pytest.fixture
def copy(make_artifact: MakeArtifact, tmp_path: Path) -> Path:
    return Path(shutil.copytree(make_artifact("sequence-classification"), tmp_path / "copy"))


def test_an_unknown_provider_is_refused(copy: Path) -> None:
    with pytest.raises(InputError, match="'tpu': unknown; choose from cpu, cuda, "):
        load(copy, "tpu")


def test_a_provider_that_is_not_built_in_is_refused(copy: Path) -> None:
    with pytest.raises(MissingDependencyError, match="has no CUDAExecutionProvider"):
        load(copy, "cuda")


def test_a_thread_count_below_one_is_refused(copy: Path) -> None:
    with pytest.raises(InputError, match="threads is 0"):
        load(copy, threads=0)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(InputError, match="not an artifact"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "spm.model", "config.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        load(copy)


def test_a_truncated_graph_is_named(copy: Path) -> None:
    graph = copy / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"model\.onnx: .* bytes, the manifest says"):
        load(copy)


def test_a_corrupted_graph_is_one_message(copy: Path) -> None:
    graph = copy / "model.onnx"
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime .* cannot load it"):
        load(copy)


def test_a_graph_with_other_inputs_is_refused(copy: Path) -> None:
    from exporter.runtime.load import artifact_shape, read_manifest
    from exporter.runtime.providers.onnx_session import OnnxSession

    model = onnx.load(copy / "model.onnx")
    model.graph.output[0].name = "other"
    model.graph.node[-1].output[0] = "other"
    onnx.save(model, copy / "other.onnx")
    with pytest.raises(InputError, match="inputs and outputs are"):
        OnnxSession(copy / "other.onnx", artifact_shape(copy, read_manifest(copy)))


def test_token_ids_work_without_a_tokenizer(
    make_checkpoint: Callable[..., Path], texts_file: Path, tmp_path: Path
) -> None:
    folder = make_checkpoint("base", tokenizer=False)
    config = exporter.BuildConfig(
        model=folder, output=tmp_path / "bare", data=texts_file, targets=("onnx",)
    )
    with pytest.warns(UserWarning, match="no tokenizer, so the artifact takes token ids"):
        assert exporter.build(config).passed
    with exporter.load(tmp_path / "bare") as session:
        assert session.run(input_ids=[[1, 2, 3]])["last_hidden_state"].shape == (1, 3, 24)
        with pytest.raises(InputError, match="no tokenizer"):
            session(["text"])


def test_running_an_artifact_needs_no_torch(make_artifact: MakeArtifact) -> None:
    code = (
        "import sys\nsys.modules['torch'] = None  # an import of it fails\n"
        "import exporter\n"
        "with exporter.load(sys.argv[1]) as session:\n"
        "    print(len(session(['One text.', 'Another.'])))\n"
    )
    folder = make_artifact("sequence-classification")
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
