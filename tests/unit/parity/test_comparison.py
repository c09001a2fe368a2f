"""Planted faults must fail, honest differences must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from exporter.deberta.checkpoint import open_checkpoint
from exporter.deberta.modeling import encoder_of
from exporter.deberta.tasks import Task
from exporter.parity.comparison import ParityResult, Reference, compare, decision_of, run_reference
from exporter.parity.inputs import ParityCase, make_cases, read_texts, text_examples
from exporter.parity.limits import Metric, limits_for
from exporter.parity.metrics import Decision
from exporter.runtime.feeds import Ids, ModelShape
from exporter.runtime.load import text_encoder
from exporter.runtime.session import Floats
from exporter.runtime.torch_session import TorchSession
from exporter.verification import check_sessions

LONGEST = 150
TASKS = ("sequence-classification", "token-classification", "multiple-choice", "base")
LIMITS = limits_for("fp32")


def quiet(message: str) -> None:
    del message


class Prepared:
    """A checkpoint, the cases and the reference's outputs."""

    def __init__(self, folder: Path, texts: Path) -> None:
        self.checkpoint = open_checkpoint(folder)
        shape = ModelShape(self.checkpoint.config, self.checkpoint.task)
        encoder = text_encoder(folder, shape.task, LONGEST)
        assert encoder is not None
        source = text_examples(encoder, read_texts(texts))
        self.cases: tuple[ParityCase, ...] = make_cases(shape, source, 16, LONGEST)
        self.reference: Reference = run_reference(TorchSession(self.checkpoint), self.cases, quiet)

    def judge(self, session: TorchSession) -> ParityResult:
        return compare(self.reference, session, self.cases, LIMITS, quiet)


@pytest.fixture(scope="module", params=TASKS)
def prepared(request, make_checkpoint, texts_file) -> Prepared:  # type: ignore[no-untyped-def]
    return Prepared(make_checkpoint(request.param), texts_file)


@pytest.fixture(scope="module")
def classifier(make_checkpoint, texts_file) -> Prepared:  # type: ignore[no-untyped-def]
    return Prepared(make_checkpoint("sequence-classification"), texts_file)


@pytest.fixture(scope="module", params=["token-classification", "base", "question-answering"])
def tokens(request, make_checkpoint, texts_file) -> Prepared:  # type: ignore[no-untyped-def]
    return Prepared(make_checkpoint(request.param), texts_file)


class Changed(TorchSession):
    """A session whose model, inputs or outputs are tampered with."""

    def __init__(
        self,
        prepared: Prepared,
        model: Callable[[torch.nn.Module], None] | None = None,
        feeds: Callable[[dict[str, Ids]], None] | None = None,
        outputs: Callable[[dict[str, Floats], Mapping[str, Ids]], None] | None = None,
    ) -> None:
        super().__init__(prepared.checkpoint)
        assert self._model is not None
        self._change_feeds, self._change_outputs = feeds, outputs
        if model is not None:
            # Loaded tensors are views of the file: copies, so that the file stays as it is. Only
            # here: a copy lies at another address, and some processors' products are rounded
            # in another order for it.
            for parameter in self._model.parameters():
                parameter.data = parameter.data.clone()
            model(self._model)

    def _execute(self, feeds: Mapping[str, Ids]) -> dict[str, Floats]:
        given = {name: values.copy() for name, values in feeds.items()}
        if self._change_feeds is not None:
            self._change_feeds(given)
        outputs = {name: values.copy() for name, values in super()._execute(given).items()}
        if self._change_outputs is not None:
            self._change_outputs(outputs, feeds)
        return outputs


def flip_a_bit(model: torch.nn.Module) -> None:
    weight = encoder_of(model).layer[1].get_parameter("output.dense.weight").data
    weight.view(torch.int32)[3, 5] ^= 1 << 24  # an exponent bit: the value times or by 4


def swap_two_slots(model: torch.nn.Module) -> None:
    slots = encoder_of(model).slots
    middle = len(slots) // 2
    slots[[middle + 1, middle + 2]] = slots[[middle + 2, middle + 1]]


def transpose_a_matrix(model: torch.nn.Module) -> None:
    weight = encoder_of(model).layer[0].get_parameter("attention.self.value_proj.weight")
    weight.data = weight.data.t().contiguous()


def forget_a_term(model: torch.nn.Module) -> None:
    for layer in encoder_of(model).layer:
        attention = layer.get_submodule("attention.self")
        attention.config = replace(attention.config, pos_att_type=("c2p",))


@pytest.mark.parametrize(
    "fault",
    [flip_a_bit, swap_two_slots, transpose_a_matrix, forget_a_term],
    ids=lambda f: f.__name__,
)
def test_a_fault_in_the_model_fails(
    prepared: Prepared, fault: Callable[[torch.nn.Module], None]
) -> None:
    result = prepared.judge(Changed(prepared, model=fault))
    assert not result
    assert result.failures


def test_a_dropped_mask_fails(prepared: Prepared) -> None:
    def drop(feeds: dict[str, Ids]) -> None:
        feeds["attention_mask"][:] = 1

    result = prepared.judge(Changed(prepared, feeds=drop))
    assert not result
    # Only padded cases can show it.
    failing = {check.case for check in result.checks if not check.passed}
    padded = {case.name for case in prepared.cases if case.padding > 0}
    assert failing <= padded


def test_a_mask_that_is_off_by_one_fails(prepared: Prepared) -> None:
    def shift(feeds: dict[str, Ids]) -> None:
        mask = feeds["attention_mask"]
        last = np.minimum(mask.sum(-1, keepdims=True), mask.shape[-1] - 1)
        np.put_along_axis(mask, last, 1, axis=-1)

    assert not prepared.judge(Changed(prepared, feeds=shift))


def test_the_same_model_passes_with_no_error(prepared: Prepared) -> None:
    result = prepared.judge(Changed(prepared))
    assert result
    assert result.failures == ()
    assert all(total.max_abs == 0.0 for total in result.totals.values())


def test_rounding_passes(prepared: Prepared) -> None:
    generator = np.random.default_rng(5)

    def jitter(outputs: dict[str, Floats], feeds: Mapping[str, Ids]) -> None:
        for values in outputs.values():
            values += generator.normal(size=values.shape) * 1e-6 * np.abs(values).max()

    result = prepared.judge(Changed(prepared, outputs=jitter))
    assert result, result.failures
    assert any(total.max_abs > 0.0 for total in result.totals.values())


def test_values_at_padded_positions_never_count(tokens: Prepared) -> None:
    def spoil(outputs: dict[str, Floats], feeds: Mapping[str, Ids]) -> None:
        for values in outputs.values():
            values[feeds["attention_mask"] == 0] = np.nan

    assert tokens.judge(Changed(tokens, outputs=spoil))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_single_non_finite_value_fails(prepared: Prepared, value: float) -> None:
    def spoil(outputs: dict[str, Floats], feeds: Mapping[str, Ids]) -> None:
        values = next(iter(outputs.values()))
        if values.shape[0] == 8:
            values.reshape(-1)[0] = value

    result = prepared.judge(Changed(prepared, outputs=spoil))
    assert not result
    assert Metric.NON_FINITE in {c.limit.metric for c in result.checks if not c.passed}


def test_a_constant_shift_fails(prepared: Prepared) -> None:
    def shift(outputs: dict[str, Floats], feeds: Mapping[str, Ids]) -> None:
        for values in outputs.values():
            values += np.float32(1e-3 * np.abs(values).max())

    assert not prepared.judge(Changed(prepared, outputs=shift))


def test_a_single_wrong_element_fails_and_is_found(classifier: Prepared) -> None:
    def spoil(outputs: dict[str, Floats], feeds: Mapping[str, Ids]) -> None:
        if outputs["logits"].shape[0] == 5:
            outputs["logits"][3, 1] += 1e-3

    result = classifier.judge(Changed(classifier, outputs=spoil))
    assert not result
    failed = next(c for c in result.checks if c.limit.metric is Metric.MAX_RELATIVE)
    case = next(case for case in classifier.cases if case.shape[0] == 5)
    assert not failed.passed
    assert (failed.case, failed.text) == (case.name, case.texts[3])
    worst = result.totals["logits"].worst
    assert worst is not None
    assert worst.example == 3
    assert worst.candidate - worst.reference == pytest.approx(1e-3, rel=1e-3)


def test_an_output_of_a_wrong_shape_fails(classifier: Prepared) -> None:
    def cut(outputs: dict[str, Floats], feeds: Mapping[str, Ids]) -> None:
        outputs["logits"] = outputs["logits"][:, :1]

    result = classifier.judge(Changed(classifier, outputs=cut))
    assert not result
    assert "of shape (1, 1); the reference has (1, 2)" in result.failures[0]


def test_known_problems_fail_the_check(classifier: Prepared) -> None:
    session = Changed(classifier)
    result = compare(
        classifier.reference, session, classifier.cases, LIMITS, quiet, ["a file has changed"]
    )
    assert not result
    assert result.failures == ("a file has changed",)


def test_the_reference_is_closed_before_the_candidate_is_made(classifier: Prepared) -> None:
    events: list[str] = []

    class Logged(TorchSession):
        def close(self) -> None:
            events.append("closed")
            super().close()

    def make() -> TorchSession:
        events.append("made")
        return Logged(classifier.checkpoint)

    assert check_sessions(make, [make], classifier.cases, LIMITS, quiet)
    assert events == ["made", "closed", "made", "closed"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Decision.ARGMAX),
        ({"num_labels": 1}, Decision.NONE),
        ({"problem_type": "regression"}, Decision.NONE),
        ({"problem_type": "multi_label_classification"}, Decision.SIGNS),
    ],
)
def test_decisions_follow_the_problem_type(changes: dict[str, object], expected: Decision) -> None:
    from exporter.deberta.configuration import DebertaConfig

    raw = {"model_type": "deberta-v2", "hidden_size": 8, "num_attention_heads": 2, **changes}
    shape = ModelShape(DebertaConfig.from_dict(raw), Task.SEQUENCE_CLASSIFICATION)
    assert decision_of(shape) is expected
