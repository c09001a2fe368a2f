"""Planted faults must fail, honest differences must pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.texts import read_texts
from exporter.artifact.files import record
from exporter.deberta.checkpoint import open_checkpoint
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import encoder_of
from exporter.inputs.cases import CaseMaker, DataSet, text_examples
from exporter.metrics.decisions import Decision, decision_of
from exporter.metrics.figures import Floats
from exporter.model.feeds import Ids
from exporter.model.task import Task
from exporter.parity.check import check_sides
from exporter.parity.limits import Metric, limits_for
from exporter.parity.result import ParityResult, SideInfo
from exporter.parity.runners import Observation, Runner, TorchRunner
from exporter.parity.side import Side
from exporter.parity.sides import reference_side
from exporter.parity.store import ReferenceStore
from exporter.runtime.load import text_encoder

LONGEST = 150
TASKS = ("sequence-classification", "token-classification", "multiple-choice", "base")
LIMITS = limits_for("fp32")


def quiet(message: str) -> None:
    del message


class Prepared:
    """A checkpoint, the inputs, and a store with what the reference gives for them."""

    def __init__(self, folder: Path, texts: Path, store: Path) -> None:
        self.folder = folder
        checkpoint = open_checkpoint(folder)
        self.shape = checkpoint.shape
        encoder = text_encoder(folder, self.shape.task, LONGEST)
        assert encoder is not None
        source = text_examples(encoder, read_texts(texts))
        maker = CaseMaker(self.shape, source, LONGEST)
        self.sets: tuple[DataSet, ...] = (maker.shapes(), maker.texts("texts", 16))
        self.cases = tuple(case for item in self.sets for case in item.cases)
        self.store = ReferenceStore(store)
        files = tuple(record(path) for path in checkpoint.files)
        self.reference = reference_side(folder, self.shape, files)

    def judge(self, runner: Runner, problems: Sequence[str] = ()) -> ParityResult:
        info = SideInfo("changed", "checkpoint", "fp32")
        side = Side(info, self.shape, None, None, (lambda shape: runner,))
        return check_sides(
            self.reference,
            side,
            self.shape,
            self.sets,
            LIMITS,
            quiet,
            store=self.store,
            problems=problems,
        )


@pytest.fixture(scope="module", params=TASKS)
def prepared(request, make_checkpoint, texts_file, tmp_path_factory) -> Prepared:  # type: ignore[no-untyped-def]
    return Prepared(make_checkpoint(request.param), texts_file, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def classifier(make_checkpoint, texts_file, tmp_path_factory) -> Prepared:  # type: ignore[no-untyped-def]
    folder = make_checkpoint("sequence-classification")
    return Prepared(folder, texts_file, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", params=["token-classification", "base", "question-answering"])
def tokens(request, make_checkpoint, texts_file, tmp_path_factory) -> Prepared:  # type: ignore[no-untyped-def]
    return Prepared(make_checkpoint(request.param), texts_file, tmp_path_factory.mktemp("store"))


class Changed(TorchRunner):
    """A model that is tampered with, or its inputs, outputs or hidden states."""

    def __init__(
        self,
        prepared: Prepared,
        model: Callable[[torch.nn.Module], None] | None = None,
        feeds: Callable[[dict[str, Ids]], None] | None = None,
        outputs: Callable[[dict[str, Floats], Mapping[str, Ids]], None] | None = None,
        layers: Callable[[list[Floats], Mapping[str, Ids]], None] | None = None,
    ) -> None:
        super().__init__(prepared.folder, prepared.shape)
        self._change_feeds, self._change_outputs = feeds, outputs
        self._change_layers = layers
        if model is not None:
            # Loaded tensors are views of the file: copies, so that the file stays as it is. Only
            # here: a copy lies at another address, and some processors' products are rounded
            # in another order for it.
            for parameter in self.model.parameters():
                parameter.data = parameter.data.clone()
            model(self.model)

    def observe(self, feeds: Mapping[str, Ids], layers: bool) -> Observation:
        given = {name: values.copy() for name, values in feeds.items()}
        if self._change_feeds is not None:
            self._change_feeds(given)
        found = super().observe(given, layers)
        outputs = {name: values.copy() for name, values in found.outputs.items()}
        hidden = [values.copy() for values in found.layers]
        if self._change_outputs is not None:
            self._change_outputs(outputs, feeds)
        if self._change_layers is not None:
            self._change_layers(hidden, feeds)
        return Observation(outputs, hidden, found.seconds)


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
    for part in result.data_sets:
        assert all(
            total.max_abs == 0.0 for total in (*part.outputs.values(), *part.layers.values())
        )


def test_rounding_passes(prepared: Prepared) -> None:
    generator = np.random.default_rng(5)

    def jitter(outputs: dict[str, Floats], feeds: Mapping[str, Ids]) -> None:
        for values in outputs.values():
            values += generator.normal(size=values.shape) * 1e-6 * np.abs(values).max()

    result = prepared.judge(Changed(prepared, outputs=jitter))
    assert result, result.failures
    assert any(x.max_abs > 0.0 for part in result.data_sets for x in part.outputs.values())


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
    assert result.first_fault is None
    case = next(case for case in classifier.cases if case.shape[0] == 5)
    assert not failed.passed
    assert (failed.case, failed.text) == (case.name, case.texts[3])
    worst = result.data_sets[0].outputs["logits"].worst
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
    result = classifier.judge(Changed(classifier), ["a file has changed"])
    assert not result
    assert result.failures == ("a file has changed",)


def test_the_reference_is_closed_before_the_candidate_is_made(
    classifier: Prepared, tmp_path: Path
) -> None:
    events: list[str] = []

    class Logged(TorchRunner):
        def __init__(self) -> None:
            events.append("made")
            super().__init__(classifier.folder, classifier.shape)

        def close(self) -> None:
            events.append("closed")
            super().close()

    side = replace(classifier.reference, opens=(lambda shape: Logged(),))
    store = ReferenceStore(tmp_path)
    given = (side, side, classifier.shape, classifier.sets, LIMITS, quiet)
    assert check_sides(*given, store=store)
    assert events == ["made", "closed", "made", "closed"]
    events.clear()
    again = check_sides(*given, store=store)
    assert again.cached == len(classifier.cases)
    assert events == ["made", "closed"]  # the reference is not even loaded


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
    raw = {"model_type": "deberta-v2", "hidden_size": 8, "num_attention_heads": 2, **changes}
    shape = DebertaConfig.from_dict(raw).shape(Task.SEQUENCE_CLASSIFICATION)
    assert decision_of(shape) is expected
