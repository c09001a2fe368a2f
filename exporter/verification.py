"""The parity check of a build and of a finished artifact: its inputs, models and files."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from exporter.errors import InputError
from exporter.files import verify_files
from exporter.manifest import Manifest, read_manifest
from exporter.parity.comparison import ParityResult, Reference, compare, run_reference
from exporter.parity.inputs import (
    DEFAULT_TEXTS,
    ParityCase,
    make_cases,
    random_examples,
    read_texts,
    text_examples,
)
from exporter.parity.limits import Limits, limits_for
from exporter.runtime.feeds import ModelShape
from exporter.runtime.load import (
    MODEL_FILE,
    artifact_shape,
    open_reference,
    source_folder,
    text_encoder,
)
from exporter.runtime.session import Session
from exporter.runtime.text import TextEncoder, TextInput

Progress: TypeAlias = Callable[[str], None]


def parity_cases(
    shape: ModelShape,
    encoder: TextEncoder | None,
    texts: Sequence[TextInput],
    count: int,
    longest: int,
) -> tuple[ParityCase, ...]:
    """The inputs of a check: from texts where the model has a tokenizer, else of random ids.

    Args:
        shape: the model.
        encoder: its tokenizer, which cuts to `longest` tokens.
        texts: texts to compare, from the first.
        count: how many of them to compare as they are, beside the odd shapes.
        longest: largest length in tokens.
    """
    if encoder is None:
        return make_cases(shape, random_examples(shape, longest), DEFAULT_TEXTS, longest)
    return make_cases(shape, text_examples(encoder, texts), min(count, len(texts)), longest)


def judged_sessions(
    path: Path, shape: ModelShape, half: str | None
) -> tuple[Callable[[], Session], ...]:
    """What runs an artifact's graph in a parity check, the one whose figures are reported first.

    A graph in fp16 or bf16 is judged with the rounding of that type in every value. ONNX Runtime's
    CPU provider runs fp16 as it is, in fp32 arithmetic: that is what such a user gets, so it must
    hold the limits as well. It cannot run bf16.

    Args:
        path: the graph.
        shape: the model.
        half: "fp16" or "bf16" where the graph has values of that type.
    """

    def native() -> Session:
        from exporter.runtime.onnx_session import OnnxSession

        return OnnxSession(path, shape)

    def rounded() -> Session:
        from exporter.runtime.rounded_session import open_rounded

        return open_rounded(path, shape)

    if half is None:
        return (native,)
    return (rounded,) if half == "bf16" else (rounded, native)


def check_sessions(
    make_reference: Callable[[], Session],
    make_candidates: Sequence[Callable[[], Session]],
    cases: Sequence[ParityCase],
    limits: Limits,
    progress: Progress,
    problems: Sequence[str] = (),
) -> ParityResult:
    """Run the models one after the other, each freed before the next is loaded, and judge.

    Args:
        make_reference: loads the reference.
        make_candidates: each loads the artifact for another runtime. The result is that of the
            first; what fails in another is a problem of it.
        cases: the inputs.
        limits: what is permitted.
        progress: told what is going on.
        problems: failures already known.
    """
    progress("parity: loading the reference")
    with closing(make_reference()) as session:
        reference = run_reference(session, cases, progress)
    del session
    gc.collect()
    found = list(problems)
    for make_candidate in make_candidates[1:]:
        other = _check(make_candidate, reference, cases, limits, progress, ())
        found += [f"{other.candidate}: {line}" for line in other.failures]
    return _check(make_candidates[0], reference, cases, limits, progress, found)


def _check(
    make_candidate: Callable[[], Session],
    reference: Reference,
    cases: Sequence[ParityCase],
    limits: Limits,
    progress: Progress,
    problems: Sequence[str],
) -> ParityResult:
    progress("parity: loading the artifact")
    with closing(make_candidate()) as session:
        return compare(reference, session, cases, limits, progress, problems)


def demo_texts() -> Path:
    """The texts that a check uses when none are given."""
    from exporter.demo import calibration_file

    return calibration_file()


def verify_artifact(
    folder: Path,
    data: Path | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> ParityResult:
    """Compare a finished artifact with the checkpoint that it was built from.

    A file of the artifact that has changed or is missing fails the check by name; the models are
    compared all the same, where the artifact still loads.

    Args:
        folder: the artifact.
        data: texts to compare, one a line; the demo's by default.
        checkpoint: where the source checkpoint is now; where the manifest says by default.
        progress: told what is going on.

    Raises:
        InputError: no artifact there, the checkpoint is gone or is another one, unusable texts.
        MissingDependencyError: PyTorch or ONNX Runtime is not installed.
    """
    say = progress or (lambda message: None)
    manifest = read_manifest(folder)
    limits = limits_for(manifest.precision)
    texts = read_texts(data or demo_texts())
    source = checkpoint or source_folder(manifest)
    _check_source(source, manifest)
    say("checking the files")
    problems = tuple(f"{p.path} {p.problem}" for p in verify_files(folder, manifest.files))
    shape = artifact_shape(source, manifest)
    encoder = text_encoder(source, shape.task, manifest.seq.max)
    count = DEFAULT_TEXTS if data is None else len(texts)
    try:
        return check_sessions(
            lambda: open_reference(source, shape.task),
            judged_sessions(folder / MODEL_FILE, shape, manifest.half),
            parity_cases(shape, encoder, texts, count, manifest.seq.max),
            limits,
            say,
            problems,
        )
    except InputError as error:
        if not problems:
            raise
        # A changed file that no longer loads is a failed check, not a wrong use of the command.
        return _unusable(limits, (*problems, str(error)))


def _check_source(folder: Path, manifest: Manifest) -> None:
    """Refuse a checkpoint other than the one that the artifact was built from."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name the source checkpoint with --checkpoint")
    changed = verify_files(folder, manifest.source.files)
    if changed:
        first = f"{changed[0].path} {changed[0].problem}"
        raise InputError(f"{folder}: not the checkpoint that the artifact was built from: {first}")


def _unusable(limits: Limits, problems: tuple[str, ...]) -> ParityResult:
    """The result for an artifact that cannot be run."""
    return ParityResult("torch fp32", "not loaded", limits, {}, (), (), problems, {})
