"""The first step of a build: the checkpoint and the texts, opened, and checked to fit together."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from calibration.texts import TextItem
from exporter.artifact.files import FileRecord, record
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.tokenization import tokenizer_files
from exporter.demo import checkpoint_folder
from exporter.errors import InputError
from exporter.inputs.cases import DataSet
from exporter.inputs.data_sets import DEFAULT_TEXTS, SAVED_IDS, DataOptions, make_data_sets
from exporter.inputs.encode import TextEncoder
from exporter.inputs.text_files import calibration_texts, model_texts
from exporter.model.model_shape import ModelShape
from exporter.model.profile import Range
from exporter.model.task import Task
from exporter.pipeline.config import BuildConfig
from exporter.precision.quantized.quantization_input import QuantizationInput, quantization_input
from exporter.runtime.load import text_encoder

if TYPE_CHECKING:
    from exporter.deberta.checkpoint import Checkpoint

_USUAL_LENGTH = 128


@dataclass(frozen=True)
class BuildSource:
    """The model that is built.

    Attributes:
        folder, demo: of the checkpoint, and whether it is the built-in one.
        checkpoint: its configuration and its weights, which are not loaded.
        seq: lengths in tokens that the artifact is for.
        encoder, tokenizer_files: its tokenizer, which cuts to `seq.max`, None where there is none,
            and what it was read from.
    """

    folder: Path
    demo: bool
    checkpoint: Checkpoint
    seq: Range
    encoder: TextEncoder | None
    tokenizer_files: tuple[Path, ...]

    @property
    def shape(self) -> ModelShape:
        """What the model is to everyone else."""
        return self.checkpoint.shape

    def records(self) -> tuple[FileRecord, ...]:
        """Every file that is read, with its hash."""
        return tuple(record(path) for path in (*self.checkpoint.files, *self.tokenizer_files))


@dataclass(frozen=True)
class BuildTexts:
    """The texts of a build: for the parity check, and those that show the values in the model.

    `quantization` has options, texts and table of an int8 or fp8 build; None for the others.
    """

    data_sets: tuple[DataSet, ...]
    calibration: tuple[TextItem, ...]
    quantization: QuantizationInput | None


def open_source(model: Path | None, task: Task | None, seq: Range | None) -> BuildSource:
    """Open a checkpoint folder and its tokenizer; None is the demo, or what the checkpoint says.

    Raises:
        InputError: the checkpoint is unusable, or has no positions for the lengths.
    """
    from exporter.deberta.checkpoint import open_checkpoint

    folder = (model or checkpoint_folder()).absolute()
    checkpoint = open_checkpoint(folder, task)
    unknown = checkpoint.config.unknown
    if unknown:
        fields = ", ".join(sorted(unknown))
        warnings.warn(
            f"{folder}: config.json has fields that nothing reads: {fields}", stacklevel=2
        )
    lengths = _lengths(seq, checkpoint.config)
    encoder = text_encoder(folder, checkpoint.task, lengths.max)
    if encoder is None:
        warnings.warn(
            f"{folder}: no tokenizer, so the artifact takes token ids and no texts", stacklevel=2
        )
    files = () if encoder is None else tokenizer_files(folder)
    return BuildSource(folder, model is None, checkpoint, lengths, encoder, files)


def open_texts(source: BuildSource, config: BuildConfig) -> BuildTexts:
    """Read the texts of a build.

    Raises:
        InputError: a file is unusable or does not fit the model, or an option of quantization.
    """
    shape, encoder, data = source.shape, source.encoder, config.data
    files = () if data is None else (data,)
    if data is not None and encoder is None and data.suffix.lower() not in SAVED_IDS:
        model_texts(data, shape)  # broken texts are an error; others go unused, as has been warned
        files = ()
    data_sets = make_data_sets(shape, encoder, DataOptions(files), source.seq.max)
    if config.quantized:
        given = quantization_input(
            config.precision, config.chosen_quantization, config.calibration_data, shape, encoder
        )
        return BuildTexts(data_sets, given.texts, given)
    texts = calibration_texts(config.calibration_data, shape)
    if config.calibration_data is None:  # those first that the parity check does not use
        texts = (*texts[DEFAULT_TEXTS:], *texts[:DEFAULT_TEXTS])
    return BuildTexts(data_sets, texts, None)


def _lengths(seq: Range | None, model: DebertaConfig) -> Range:
    """The lengths asked for, or 1 up to what the model was trained for."""
    longest = model.max_position_embeddings
    if seq is None:
        return Range(1, min(_USUAL_LENGTH, longest), longest)
    if model.position_biased_input and seq.max > longest:
        raise InputError(
            f"--seq {seq}: the model has positions for {longest} tokens "
            "(max_position_embeddings); choose a smaller maximum"
        )
    return seq
