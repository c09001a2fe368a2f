"""The data sets of a check: generated lengths, and the texts or saved ids of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.deberta.tokenization import check_vocabulary
from exporter.errors import InputError
from exporter.inputs.cases import (
    DEFAULT_TEXTS,
    CaseMaker,
    DataSet,
    ParityCase,
    random_examples,
    text_examples,
)
from exporter.inputs.encode import TextEncoder, TextInput
from exporter.inputs.labelled import LabelledTexts, read_labelled
from exporter.inputs.saved import read_json_inputs, read_npz
from exporter.model.model_shape import ModelShape


@dataclass(frozen=True)
class DataOptions:
    """What to compare on.

    Attributes:
        files: texts, `.npz` or Polygraphy's `.json`; empty takes the demo's texts.
        labels: whether texts end with a label; None finds out.
        lengths: lengths to generate; None takes those that break exports, empty none.
    """

    files: tuple[Path, ...] = ()
    labels: bool | None = None
    lengths: tuple[int, ...] | None = None


def demo_texts() -> Path:
    """The texts that a check uses when none are given."""
    from exporter.demo import calibration_file

    return calibration_file()


def text_sets(
    shape: ModelShape,
    encoder: TextEncoder | None,
    texts: Sequence[TextInput],
    count: int,
    longest: int,
    name: str,
) -> tuple[DataSet, ...]:
    """The inputs of a build's check: generated lengths, and texts; random ids without a tokenizer.

    Args:
        shape: the model.
        encoder: its tokenizer, which cuts to `longest` tokens.
        texts: texts to compare, from the first.
        count: how many of them to compare as they are.
        longest: largest length in tokens.
        name: of the data set of texts.
    """
    if encoder is None:
        maker = CaseMaker(shape, random_examples(shape, longest), longest)
        return maker.shapes(), maker.texts("random ids", DEFAULT_TEXTS)
    maker = CaseMaker(shape, text_examples(encoder, texts), longest)
    return maker.shapes(), maker.texts(name, min(count, len(texts)))


def parity_cases(
    shape: ModelShape,
    encoder: TextEncoder | None,
    texts: Sequence[TextInput],
    count: int,
    longest: int,
) -> tuple[ParityCase, ...]:
    """The batches of `text_sets`."""
    sets = text_sets(shape, encoder, texts, count, longest, "texts")
    return tuple(case for data_set in sets for case in data_set.cases)


def make_data_sets(
    shape: ModelShape, encoder: TextEncoder | None, options: DataOptions, longest: int
) -> tuple[DataSet, ...]:
    """The data sets that a user asks for.

    Raises:
        InputError: a file is unusable, texts without a tokenizer, or nothing to compare.
    """
    if encoder is not None:
        check_vocabulary(encoder.tokenizer, shape.vocab_size)
    wrong = [length for length in options.lengths or () if not 1 <= length <= longest]
    if wrong:
        raise InputError(f"--lengths: {wrong[0]}; the model takes 1 to {longest} tokens")
    sets: list[DataSet] = []
    if options.lengths is None or options.lengths:
        sets.append(_generated(shape, encoder, options, longest))
    sets += [_from_file(shape, encoder, path, options.labels, longest) for path in options.files]
    if not options.files:
        sets.append(_default(shape, encoder, longest))
    names = [item.name for item in sets]
    if len(set(names)) < len(names):
        raise InputError(f"--data: two files named {max(names, key=names.count)}; rename one")
    return tuple(sets)


def _generated(
    shape: ModelShape, encoder: TextEncoder | None, options: DataOptions, longest: int
) -> DataSet:
    if encoder is None:
        source = random_examples(shape, longest)
    else:
        texts = [path for path in options.files if _holds_texts(path)]
        chosen = texts[0] if texts else demo_texts()
        labels = options.labels if texts else False
        source = text_examples(encoder, read_labelled(chosen, shape, labels).texts)
    return CaseMaker(shape, source, longest).shapes(options.lengths)


def _holds_texts(path: Path) -> bool:
    return path.suffix.lower() not in (".npz", ".json")


def _from_file(
    shape: ModelShape, encoder: TextEncoder | None, path: Path, labels: bool | None, longest: int
) -> DataSet:
    suffix = path.suffix.lower()
    if suffix in (".npz", ".json"):
        found = read_npz(path, shape) if suffix == ".npz" else read_json_inputs(path, shape)
        most = max(case.shape[-1] for case in found.cases)
        if most > longest:
            raise InputError(f"{path}: inputs of {most} tokens; the models take {longest} at most")
        return found
    read: LabelledTexts = read_labelled(path, shape, labels)
    if encoder is None:
        raise InputError(f"{path}: texts, but neither side has a tokenizer; give token ids as .npz")
    maker = CaseMaker(shape, text_examples(encoder, read.texts), longest)
    return maker.texts(path.name, len(read.texts), read.labels)


def _default(shape: ModelShape, encoder: TextEncoder | None, longest: int) -> DataSet:
    if encoder is None:
        source = random_examples(shape, longest)
        return CaseMaker(shape, source, longest).texts("random ids", DEFAULT_TEXTS)
    texts = read_labelled(demo_texts(), shape, False).texts
    maker = CaseMaker(shape, text_examples(encoder, texts), longest)
    return maker.texts(demo_texts().name, min(DEFAULT_TEXTS, len(texts)))
