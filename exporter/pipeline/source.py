"""The first step of a build: the checkpoint and the texts, opened, and checked to fit together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.texts import TextItem
from exporter.artifact.files import FileRecord, record
from exporter.artifact.manifest import Source
from exporter.artifact.writer import ArtifactWriter
from exporter.deberta.configuration import read_object
from exporter.deberta.hub_model import LocalModel, local_model
from exporter.deberta.tokenization import (
    shipped_files,
    token_fingerprint,
    tokenizer_files,
)
from exporter.demo import checkpoint_folder
from exporter.errors import InputError
from exporter.inputs.cases import DataSet
from exporter.inputs.data_sets import DEFAULT_TEXTS, SAVED_IDS, DataOptions, make_data_sets
from exporter.inputs.encode import TextEncoder
from exporter.inputs.text_files import calibration_texts, model_texts
from exporter.model.model_shape import ModelShape
from exporter.model.profile import Range
from exporter.parity.side import Side
from exporter.parity.sides import reference_side
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
        demo: whether it is the built-in checkpoint.
        origin: where it lies, and what it is on the hub.
        checkpoint: its configuration and its weights, which are not loaded.
        seq: lengths in tokens that the artifact is for.
        encoder, tokenizer_files: its tokenizer, which cuts to `seq.max`, None where there is none,
            and what it was read from.
        tokenizer_json: what the artifact has in the place of some of these files, by name.
        notes: what was changed or left out in reading it.
    """

    demo: bool
    origin: LocalModel
    checkpoint: Checkpoint
    seq: Range
    encoder: TextEncoder | None
    tokenizer_files: tuple[Path, ...]
    tokenizer_json: Mapping[str, dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def shape(self) -> ModelShape:
        """What the model is to everyone else."""
        return self.checkpoint.shape

    def records(self) -> tuple[FileRecord, ...]:
        """Every file that is read, with its hash."""
        return tuple(record(path) for path in (*self.checkpoint.files, *self.tokenizer_files))

    def described(self, files: tuple[FileRecord, ...]) -> Source:
        """What the manifest says of it."""
        folder, base = self.checkpoint.folder, self.checkpoint.base
        elsewhere = "" if base == folder else str(base)
        ids = "" if self.encoder is None else token_fingerprint(self.encoder.tokenizer)
        origin = (self.origin.hub, self.origin.commit, ids)
        return Source(str(folder), self.demo, files, elsewhere, self.notes, *origin)

    def reference(self, files: tuple[FileRecord, ...]) -> Side:
        """What the artifact is compared with."""
        folder, base = self.checkpoint.folder, self.checkpoint.base
        return reference_side(folder, self.shape, files, None if base == folder else base)

    def write_files(self, writer: ArtifactWriter) -> None:
        """Write what the artifact needs beside its graph."""
        checkpoint = self.checkpoint
        if (labels := checkpoint.own_labels) is None:
            writer.copy(checkpoint.config_file)
        else:
            path = checkpoint.config_file
            writer.write_json(path.name, {**read_object(path), **labels})
        for item in self.tokenizer_files:
            if item.name not in self.tokenizer_json:
                writer.copy(item)
        for name, content in self.tokenizer_json.items():
            writer.write_json(name, content)


@dataclass(frozen=True)
class BuildTexts:
    """The texts of a build: for the parity check, and those that show the values in the model.

    `quantization` has options, texts and table of an int8 or fp8 build; None for the others.
    """

    data_sets: tuple[DataSet, ...]
    calibration: tuple[TextItem, ...]
    quantization: QuantizationInput | None


def open_source(config: BuildConfig) -> BuildSource:
    """Open the checkpoint folder of a build and its tokenizer; the demo's without one.

    Warns of all that was changed on the way, or is not used.

    Raises:
        InputError: the checkpoint is unusable, or has no positions for the lengths.
    """
    from exporter.deberta.checkpoint import contradictions, open_checkpoint

    origin = local_model(config.model or checkpoint_folder(), config.revision)
    folder = origin.folder.absolute()
    base = None if config.base is None else local_model(config.base).folder.absolute()
    checkpoint = open_checkpoint(folder, config.task, base=base, strict=config.strict)
    notes = [*checkpoint.notes, *contradictions(checkpoint)]
    lengths = _lengths(config.seq, checkpoint.shape)
    encoder = None
    files: tuple[Path, ...] = ()
    for place in dict.fromkeys((checkpoint.folder, checkpoint.base)):
        if encoder is None:
            encoder = text_encoder(place, checkpoint.task, lengths.max, checkpoint.config.gliner)
            files = () if encoder is None else tokenizer_files(place)
    if encoder is None and checkpoint.shape.gliner is not None:
        raise InputError(
            f"{folder}: no tokenizer; a GLiNER model has words and labels by it: add the "
            "tokenizer.json that it was saved with"
        )
    if encoder is None:
        notes.append(f"{folder}: no tokenizer, so the artifact takes token ids and no texts")
    for note in notes:
        warnings.warn(note, stacklevel=2)
    shipped: Mapping[str, dict[str, Any]] = {}
    if encoder is not None:
        inputs = checkpoint.shape.inputs
        shipped, unsaid = shipped_files(encoder.tokenizer, inputs, lengths.max)
        notes += unsaid
    known = (checkpoint, lengths, encoder, files, shipped)
    return BuildSource(config.model is None, origin, *known, tuple(notes))


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


def _lengths(seq: Range | None, model: ModelShape) -> Range:
    """The lengths asked for, or 1 up to what the model was trained for."""
    longest = model.usual_longest
    if seq is None:
        return Range(1, min(_USUAL_LENGTH, longest), longest)
    if model.position_biased_input and seq.max > longest:
        raise InputError(
            f"--seq {seq}: the model has positions for {longest} tokens "
            "(max_position_embeddings); choose a smaller maximum"
        )
    return seq
