"""From an fp32 graph on disk to a quantized one: calibrate or reuse, judge, choose, write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from calibration.errors import CalibrationError
from calibration.formats import NumberFormat
from calibration.placement import Placement, PlacementPolicy, place
from calibration.recipes import Recipes
from calibration.sensitivity import Budget, Damage, SensitivityReport, fit_budget, units_of
from calibration.sites import find_sites
from calibration.table import Json, ScaleTable, SiteEntry
from calibration.texts import TextItem, split_texts
from exporter.graph.check import check_graph, count_attention_nodes
from exporter.graph.write import WrittenModel, write_model
from exporter.inputs.encode import TextEncoder
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.calibrate import CalibrationConfig, calibrate, recipes_of
from exporter.precision.quantized.candidates import Candidates
from exporter.precision.quantized.damage import Judge
from exporter.precision.quantized.passes import QuantizationReport
from exporter.precision.quantized.text_batches import TextBatches, batch_texts, label_indices
from exporter.progress import Progress, silent
from exporter.runtime.providers.onnx_session import OnnxSession

FALLBACK = "costs more than the accuracy budget allows"
SILENT = "its input is zero on all calibration text"

CALIBRATION_TEXTS = 512
"""Texts to calibrate with: more do not move the thresholds."""
SHORT_TEXTS = (1, 2, 3, 4, 6) * 4
"""Lengths in tokens of texts to calibrate with beside those given. Where few tokens share the
attention, less is averaged away: its output reaches further than in any longer text."""
HELD_BACK_TEXTS = 1024
"""Texts to judge by: one more decision in a thousand still shows."""


@dataclass(frozen=True)
class QuantizeConfig:
    """How to quantize.

    Attributes:
        number: the format of activations.
        weights: the format of weights; None for the same.
        policy: what to quantize.
        calibration: how thresholds are chosen.
        budget: what may be lost; None quantizes all that the policy says, unmeasured.
    """

    number: NumberFormat = NumberFormat.INT8
    weights: NumberFormat | None = None
    policy: PlacementPolicy = field(default_factory=PlacementPolicy)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    budget: Budget | None = None


@dataclass(frozen=True, eq=False)
class CalibrationText:
    """Texts of the user, tokenized and divided.

    Attributes:
        batches: for calibration.
        held_back: for judging the result.
        held_back_examples: the same as texts.
    """

    batches: TextBatches
    held_back: TextBatches
    held_back_examples: tuple[TextItem, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the tokens say against the text."""
        return self.batches.warnings


@dataclass(frozen=True, eq=False)
class QuantizedFile:
    """How a quantized graph came about.

    Attributes:
        written: the files.
        nodes: of the main graph.
        initializers: of the main graph.
        table: the scale table, with what fell back noted.
        reused: whether the table was there before.
        report: what the pass did.
        sensitivity: what was measured; None without a budget.
        warnings: what the user should know of the table, one sentence each.
    """

    written: WrittenModel
    nodes: int
    initializers: int
    table: ScaleTable
    reused: bool
    report: QuantizationReport
    sensitivity: SensitivityReport | None
    warnings: tuple[str, ...]

    @property
    def within_budget(self) -> bool:
        """Whether the graph keeps the accuracy budget; true without one."""
        return self.sensitivity is None or self.sensitivity.within


def prepare_text(
    encoder: TextEncoder, shape: ModelShape, examples: Sequence[TextItem]
) -> CalibrationText:
    """Divide texts into those to calibrate with and those to judge by, and tokenize them.

    Raises:
        CalibrationError: too few different texts, or none with a token that the model knows.
        InputError: a text that the task cannot take.
    """
    used, held_back = split_texts(examples)
    used, held_back = _spread(used, CALIBRATION_TEXTS), _spread(held_back, HELD_BACK_TEXTS)
    return CalibrationText(
        batches=batch_texts(encoder, shape, used, SHORT_TEXTS),
        held_back=batch_texts(encoder, shape, held_back),
        held_back_examples=held_back,
    )


def _spread(examples: tuple[TextItem, ...], limit: int) -> tuple[TextItem, ...]:
    """So many examples at most, evenly spaced over the file, which may be sorted."""
    count = min(limit, len(examples))
    return tuple(examples[index * len(examples) // count] for index in range(count))


def quantize_file(
    source: Path,
    target: Path,
    shape: ModelShape,
    text: CalibrationText,
    config: QuantizeConfig,
    *,
    model_hash: str,
    table: ScaleTable | None = None,
    resume: Path | None = None,
    finish: Callable[[ir.Model], None] | None = None,
    external_data: bool | None = None,
    progress: Progress = silent,
) -> QuantizedFile:
    """Quantize a graph and write it.

    Args:
        source: an exported fp32 graph, its weights in a data file beside it; files that are needed
            on the way are put there and removed.
        target: the file to write.
        shape: the model.
        text: to calibrate with and to judge by.
        config: how.
        model_hash: identity of the graph and its weights.
        table: a scale table of this model to use in the place of a calibration.
        resume: file that keeps what was observed, so that an interrupted calibration goes on; it is
            removed in the end.
        finish: changes the rest of the graph, such as its precision, before it is written.
        external_data: see `write_model`.
        progress: told what is going on.

    Raises:
        CalibrationError: a policy that fits no site, unusable text, or a broken table.
        InputError: labels that the model does not have.
    """
    sites = find_sites(ir.load(source))
    placement = place(config.policy, sites)
    reused = table is not None
    if table is None:
        table = calibrate(
            source,
            sites,
            text.batches.feeds,
            config.calibration,
            model_hash=model_hash,
            data_hash=text.batches.data_hash,
            resume=resume,
            progress=progress,
        )
        if resume is not None:
            resume.unlink(missing_ok=True)
    recipes = recipes_of(table, placement.quantized)
    placement = _without_silent(placement, recipes)
    progress("clipping weights")
    with Candidates(source, shape, placement, recipes, config.number, config.weights) as candidates:
        sensitivity = None
        if config.budget is not None:
            judge = make_judge(source, shape, text, progress)
            sensitivity = _fit(
                candidates, placement, judge, text.held_back, config.budget, progress
            )
            placement = placement.keep(sensitivity.fallback, FALLBACK)
        model, report = candidates.make(placement)
        if finish is not None:
            finish(model)
        check_graph(model, count_attention_nodes(model))
        written = write_model(
            model,
            target,
            external_data=external_data,
            progress=lambda done, total: progress(f"writing {100 * done // max(total, 1)} %"),
        )
    return QuantizedFile(
        written=written,
        nodes=sum(1 for _ in model.graph),
        initializers=len(model.graph.initializers),
        table=_noted(table, sensitivity, config.number),
        reused=reused,
        report=report,
        sensitivity=sensitivity,
        warnings=table.warnings(),
    )


def make_judge(source: Path, shape: ModelShape, text: CalibrationText, say: Progress) -> Judge:
    """Run the fp32 graph on the held-back text.

    Raises:
        InputError: labels that the model or the task does not have.
    """
    labels = label_indices(shape, text.held_back_examples)
    say("running the fp32 graph on held-back text")
    with OnnxSession(source, shape) as session:
        reference = [session.run(**feeds) for feeds in text.held_back.feeds]
    return Judge(shape, text.held_back, reference, labels)


def _fit(
    candidates: Candidates,
    placement: Placement,
    judge: Judge,
    text: TextBatches,
    budget: Budget,
    say: Progress,
) -> SensitivityReport:
    def measure(floats: frozenset[str]) -> Damage:
        return judge.damage(candidates.run(placement.keep(tuple(floats), FALLBACK), text.feeds))

    return fit_budget(units_of(placement.quantized), measure, budget, say)


def _without_silent(placement: Placement, recipes: Recipes) -> Placement:
    """Keep in float what calibration saw nothing of: any scale would be a guess."""
    silent = [name for name, recipe in recipes.items() if recipe.all_zero]
    placement = placement.keep(silent, SILENT)
    if not placement.quantized:
        raise CalibrationError(
            "the inputs of all linear layers to quantize are zero on the calibration text; "
            "check the checkpoint"
        )
    return placement


def _noted(
    table: ScaleTable, sensitivity: SensitivityReport | None, number: NumberFormat
) -> ScaleTable:
    """The table with what each measured site costs in this format, and what fell back."""
    if sensitivity is None:
        return table
    notes: dict[str, SiteEntry] = {}
    for unit in sensitivity.units:
        for site in unit.sites:
            note: Json = {"cost": unit.cost, "fallback": unit.fallback}
            notes[site] = {**table.sites[site], f"{number.value}_sensitivity": note}
    return table.with_sites(notes)
