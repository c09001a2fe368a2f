"""The data sets of a check: generated lengths, and the texts or saved ids of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calibration.texts import TextItem
from exporter.deberta.tokenization import check_vocabulary
from exporter.errors import InputError
from exporter.inputs.cases import CaseMaker, DataSet, ExampleSource, random_examples, text_examples
from exporter.inputs.encode import TextEncoder
from exporter.inputs.saved import read_json_inputs, read_npz
from exporter.inputs.text_files import demo_texts, model_texts
from exporter.model.model_shape import ModelShape

DEFAULT_TEXTS = 32
"""Texts compared, beside the odd shapes, where no file is given."""

SAVED_IDS = {".npz": read_npz, ".json": read_json_inputs}


@dataclass(frozen=True)
class DataOptions:
    """What to compare on: texts, `.npz` or Polygraphy's `.json`; the demo's texts without `files`.

    `labels` says whether texts end with a label, None finds out. `lengths` are lengths to generate:
    None takes those that break exports, empty none.
    """

    files: tuple[Path, ...] = ()
    labels: bool | None = None
    lengths: tuple[int, ...] | None = None


def examples_of(
    shape: ModelShape, encoder: TextEncoder | None, texts: Sequence[TextItem], longest: int
) -> ExampleSource:
    """Examples of texts, or of random ids without a tokenizer."""
    return text_examples(encoder, texts) if encoder else random_examples(shape, longest)


def make_data_sets(
    shape: ModelShape, encoder: TextEncoder | None, options: DataOptions, longest: int | None
) -> tuple[DataSet, ...]:
    """The data sets that a user asks for: generated lengths first, then one a file.

    Without `encoder` ids are random. `longest` is the largest length in tokens the models take,
    None where nothing bounds it: lengths that nobody asked for then end at what the model was
    trained for. Raises InputError for an unusable file, texts without a tokenizer, or two files of
    one name.
    """
    if encoder is not None:
        check_vocabulary(encoder.tokenizer, shape.vocab_size)
    lengths = options.lengths or ()
    bound = longest
    if longest is None:
        longest = max(shape.usual_longest, *lengths, 1)
    wrong = [length for length in lengths if not 1 <= length <= longest]
    if wrong:
        most = "or more" if bound is None else f"to {bound}"
        raise InputError(f"--lengths: {wrong[0]}; the model takes 1 {most} tokens")
    texts = {
        path: model_texts(path, shape, options.labels, judged=True)
        for path in options.files
        if path.suffix.lower() not in SAVED_IDS
    }
    if texts and encoder is None:
        raise InputError(f"{next(iter(texts))}: texts, but no tokenizer; give token ids as .npz")
    own = model_texts(demo_texts(), shape, False)

    def maker(items: Sequence[TextItem]) -> CaseMaker:
        return CaseMaker(shape, examples_of(shape, encoder, items, longest), longest)

    sets: list[DataSet] = []
    if options.lengths is None or options.lengths:
        sets.append(maker(next(iter(texts.values()), own)).shapes(options.lengths))
    for path in options.files:
        if path in texts:
            sets.append(maker(texts[path]).texts(path.name, len(texts[path])))
        else:
            sets.append(_saved_ids(path, shape, bound))
    if not options.files:
        name = "random ids" if encoder is None else demo_texts().name
        sets.append(maker(own).texts(name, min(DEFAULT_TEXTS, len(own))))
    names = [item.name for item in sets]
    if len(set(names)) < len(names):
        raise InputError(f"--data: two files named {max(names, key=names.count)}; rename one")
    return tuple(sets)


def _saved_ids(path: Path, shape: ModelShape, longest: int | None) -> DataSet:
    found = SAVED_IDS[path.suffix.lower()](path, shape)
    most = max(case.shape[-1] for case in found.cases)
    if longest is not None and most > longest:
        raise InputError(f"{path}: inputs of {most} tokens; the models take {longest} at most")
    return found
