"""Batches and windows: each text once, bounds kept, little padding, sources taken as needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tokenization import Encoding
from exporter.errors import InputError
from exporter.inputs.encode import Example
from exporter.model.model_shape import ModelShape
from exporter.model.task import Task
from exporter.runtime.batching import Batching, batches, windows
from exporter.runtime.load import load
from exporter.runtime.runtime_options import RuntimeOptions
from exporter.runtime.session import TruncationWarning

pytestmark = pytest.mark.usefixtures("shared_traces")

MakeArtifact = Callable[[str], Path]


def shape(task: Task = Task.SEQUENCE_CLASSIFICATION, vocabulary: int = 1000) -> ModelShape:
    config = {"model_type": "deberta-v2", "vocab_size": vocabulary}
    return DebertaConfig.from_dict(config).shape(task)


def example(length: int, rows: int = 1) -> Example:
    zeros = (0,) * length
    row = Encoding((1,) * length, zeros, ((0, 0),) * length, zeros, zeros, length)
    return Example("", (), (row,) * rows)


@pytest.mark.parametrize("seed", range(20))
def test_random_lengths(seed: int) -> None:
    rng = random.Random(seed)
    examples = [example(rng.randint(1, 90)) for _ in range(rng.randint(0, 120))]
    bounds = Batching(tokens=rng.choice([1, 64, 200, 999]), largest=rng.choice([1, 5, 1000]))
    found = list(batches(examples, shape(), bounds))
    assert sorted(index for batch in found for index in batch) == list(range(len(examples)))
    lengths = [examples[index].length for batch in found for index in batch]
    assert lengths == sorted(lengths, reverse=True)
    for batch, following in zip(found, [*found[1:], None], strict=True):
        longest = examples[batch[0]].length
        assert len(batch) == 1 or len(batch) * longest <= bounds.tokens
        assert len(batch) <= bounds.largest
        # Full: the next example would have gone over a bound.
        if following is not None:
            room = (len(batch) + 1) * longest <= bounds.tokens and len(batch) < bounds.largest
            assert not room


def test_prompts_with_other_numbers_of_choices_are_apart() -> None:
    counts = [2, 3, 2, 4, 3, 2]
    examples = [example(7, rows) for rows in counts]
    found = list(batches(examples, shape(Task.MULTIPLE_CHOICE), Batching(tokens=28)))
    assert found == [[3], [1], [4], [0, 2], [5]]  # 28 tokens: one of 4 or 3 rows, two of 2


def test_large_outputs_bound_a_batch() -> None:
    wide = shape(Task.MASKED_LM, vocabulary=1 << 20)
    found = list(batches([example(16)] * 10, wide, Batching(tokens=1 << 20, largest=99)))
    assert [len(batch) for batch in found] == [4, 4, 2]  # 4 * 16 * 2^20 = 2^26 values


def test_windows_take_no_more_than_they_give() -> None:
    taken = 0

    def source() -> Iterator[int]:
        nonlocal taken
        for number in range(7):
            taken += 1
            yield number

    found = windows(source(), 3)
    assert next(found) == [0, 1, 2]
    assert taken == 3
    assert list(found) == [[3, 4, 5], [6]]
    assert list(windows([], 3)) == []


def test_a_stream_is_lazy_and_in_order(make_artifact: MakeArtifact) -> None:
    taken: list[str] = []

    def source() -> Iterator[str]:
        for number in range(1000):  # far more than are asked for
            taken.append(f"{'very ' * (number * 7 % 11)}good {number}")
            yield taken[-1]

    folder = make_artifact("sequence-classification")
    with load(folder, options=RuntimeOptions(threads=1, tokens=60, window=8)) as session:
        stream = session.stream(source())
        assert taken == []
        first = [next(stream) for _ in range(11)]
        assert len(taken) == 16
        assert [getattr(item, "text", "") for item in first] == taken[:11]
        assert session(taken[:11]) == first


def test_any_iterable_of_texts(make_artifact: MakeArtifact) -> None:
    texts = [f"{'well ' * (i * 5 % 9)}number {i}" for i in range(23)]
    folder = make_artifact("sequence-classification")
    with load(folder, options=RuntimeOptions(threads=1, window=10)) as session:
        together = session(texts)
        assert [getattr(item, "text", "") for item in together] == texts
        for given in (iter(texts), tuple(texts), (text for text in texts), dict.fromkeys(texts)):
            assert session(given) == together
        assert list(session.stream(texts)) == together
        assert list(session.stream([])) == []


def test_a_text_that_does_not_suit_comes_up_in_its_window(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("sequence-classification")
    with load(folder, options=RuntimeOptions(threads=1, window=2)) as session:
        stream = session.stream(["one", "two", ("a", ("b", "c"))])
        assert len([next(stream), next(stream)]) == 2
        with pytest.raises(InputError, match="takes at most two texts"):
            next(stream)
        with pytest.raises(InputError, match="give a list"):
            list(session.stream("a text"))


def test_warnings_name_the_line_that_calls(make_artifact: MakeArtifact) -> None:
    folder = make_artifact("sequence-classification")
    long = ["word " * 400]
    with load(folder, options=RuntimeOptions(threads=1)) as session:
        with pytest.warns(TruncationWarning) as called:
            session(long)
        with pytest.warns(TruncationWarning) as streamed:
            for _ in session.stream(long):
                pass
    assert called[0].filename == streamed[0].filename == __file__
