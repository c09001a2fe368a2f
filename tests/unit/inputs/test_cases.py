"""Token ids to judge by: from texts, from labelled lines, and the odd shapes."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.texts import read_texts
from exporter.deberta.configuration import DebertaConfig
from exporter.inputs import cases as inputs
from exporter.inputs.cases import (
    CaseMaker,
    ExampleSource,
    ParityCase,
    random_examples,
    text_examples,
)
from exporter.model.feeds import make_feeds
from exporter.model.model_shape import ModelShape
from exporter.model.task import ARCHITECTURES, Task
from exporter.runtime.load import text_encoder

LONGEST = 150


def make_cases(
    shape: ModelShape, source: ExampleSource, count: int, longest: int
) -> tuple[ParityCase, ...]:
    maker = CaseMaker(shape, source, longest)
    return (*maker.shapes().cases, *maker.texts("texts", count).cases)


@pytest.fixture(params=ARCHITECTURES.values(), ids=str)
def cases(request, make_checkpoint, texts_file):  # type: ignore[no-untyped-def]
    task = request.param
    folder = make_checkpoint(task.value, type_vocab_size=2)
    shape = DebertaConfig.from_folder(folder).shape(task)
    encoder = text_encoder(folder, task, LONGEST)
    assert encoder is not None
    source = text_examples(encoder, read_texts(texts_file)[:4])
    return shape, make_cases(shape, source, 20, LONGEST), encoder.tokenizer


def test_cases_cover_the_shapes_that_break_exports(cases) -> None:  # type: ignore[no-untyped-def]
    shape, made, _ = cases
    lengths = {case.shape[-1] for case in made}
    assert {1, 2, 7, 66, 129, LONGEST} <= lengths
    assert any(case.shape[-1] % 64 == 0 for case in made)
    assert {1, 2, 3, 5, 8} <= {case.shape[0] for case in made}
    assert min(case.padding for case in made) == 0.0
    assert max(case.padding for case in made) >= 0.5
    for case in made:
        assert len(case.shape) == shape.rank
        assert len(case.texts) == case.shape[0]
        feeds = make_feeds(shape, **case.feeds)  # raises where the model could not take them
        assert tuple(feeds) == shape.inputs
        assert (feeds["attention_mask"].sum(-1) > 0).all()


def test_cases_are_the_same_every_time(cases, texts_file) -> None:  # type: ignore[no-untyped-def]
    shape, made, tokenizer = cases
    encoder = inputs.TextEncoder(tokenizer, shape.task, LONGEST)
    again = make_cases(shape, text_examples(encoder, read_texts(texts_file)[:4]), 20, LONGEST)
    assert [case.name for case in again] == [case.name for case in made]
    for first, second in zip(made, again, strict=True):
        for name in shape.inputs:
            assert np.array_equal(first.feeds[name], second.feeds[name])


def test_masked_lm_has_masks_and_others_have_none(cases) -> None:  # type: ignore[no-untyped-def]
    shape, made, tokenizer = cases
    masks = sum(int((case.feeds["input_ids"] == tokenizer.mask_token_id).sum()) for case in made)
    assert (masks > 20) == (shape.task is Task.MASKED_LM)


def test_pairs_where_the_task_takes_them(cases) -> None:  # type: ignore[no-untyped-def]
    shape, made, _ = cases
    paired = any(case.feeds["token_type_ids"].any() for case in made)
    assert paired == (shape.task in (Task.QUESTION_ANSWERING, Task.MULTIPLE_CHOICE))


@pytest.mark.parametrize("task", ARCHITECTURES.values(), ids=str)
def test_random_ids_stand_in_for_a_missing_tokenizer(task: Task) -> None:
    config = DebertaConfig(vocab_size=53, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    shape = config.shape(task)
    made = make_cases(shape, random_examples(shape, 40), 16, 40)
    assert {1, 2, 7, 40} <= {case.shape[-1] for case in made}
    assert max(case.shape[-1] for case in made) == 40
    for case in made:
        make_feeds(shape, **case.feeds)
        assert case.texts == ()


def test_outputs_beyond_the_memory_bound_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    config = DebertaConfig(vocab_size=99, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    shape = config.shape(Task.MASKED_LM)
    whole = make_cases(shape, random_examples(shape, 40), 64, 40)
    bound = 60_000
    monkeypatch.setattr(inputs, "MAX_OUTPUT_BYTES", bound)
    kept = make_cases(shape, random_examples(shape, 40), 64, 40)
    size = sum(4 * 99 * int(case.feeds["attention_mask"].sum()) for case in kept)
    assert 0 < len(kept) < len(whole)
    assert bound / 2 < size <= bound
