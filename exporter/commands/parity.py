"""`deb-export parity`: an artifact against its checkpoint, or any two models."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.options.shared import (
    FILE,
    FILE_OR_STDOUT,
    RenamingCommand,
    debug_option,
    option_group,
)
from exporter.errors import InputError
from exporter.progress import Progress, ProgressLine
from exporter.runtime.runtime_options import ATTENTION_KERNELS, RuntimeOptions

if TYPE_CHECKING:
    from exporter.parity.check import CompareOptions
    from exporter.parity.result import ParityResult

_options = option_group(
    # The two sides.
    click.option("--reference", type=FILE, help="What is right.  [default: ARTIFACT's source]"),
    click.option("--candidate", type=FILE, help="What is judged, in the place of ARTIFACT."),
    click.option(
        "--checkpoint",
        type=FILE,
        help="Where ARTIFACT's source is now.  [default: where it was at the build]",
    ),
    click.option(
        "--base",
        type=FILE,
        help="Where the model is that the source, a LoRA adapter, is merged into.  [default: where "
        "it was at the build, or the adapter says]",
    ),
    click.option("--revision", help="Of a side that is a name on the hub: branch, tag or commit."),
    click.option("--task", metavar="TASK", help="Head of a checkpoint.  [default: as it says]"),
    # What they are compared on.
    click.option(
        "--data",
        multiple=True,
        type=FILE,
        help="Texts, one a line, a tab between the parts of a pair and before a label; JSONL; "
        "token ids as .npz or as Polygraphy's .json. May be repeated.  [default: the demo's]",
    ),
    click.option(
        "--labels/--no-labels",
        default=None,
        help="Texts end with a label.  [default: where all lines end with one of the model's]",
    ),
    click.option(
        "--lengths",
        metavar="N,N,...|none",
        help="Lengths in tokens to generate inputs of.  [default: those that break exports]",
    ),
    click.option(
        "--layers/--no-layers",
        default=True,
        show_default=False,
        help="Compare every layer.  [default: yes]",
    ),
    # What it runs on.
    click.option(
        "--attention-kernel",
        metavar="|".join(ATTENTION_KERNELS),
        help="The attention of a graph that is judged: as the file says, or by our own operator.  "
        "[default: $DEB_EXPORT_ATTENTION_KERNEL, or native where it was built]",
    ),
    # What is permitted.
    click.option(
        "--limits-of",
        "precision",
        metavar="PRECISION",
        help="Whose limits.  [default: the coarser of the sides']",
    ),
    click.option("--limits", "limits_file", type=FILE, help="Limits of your own, as TOML."),
    click.option("--limit", "limits", multiple=True, metavar="METRIC=BOUND", help="One limit."),
    # What is written.
    click.option(
        "--json", "json_file", type=FILE_OR_STDOUT, help="Write all figures; - for stdout."
    ),
    click.option("--junit", type=FILE_OR_STDOUT, help="Write JUnit XML."),
    click.option("--markdown", type=FILE_OR_STDOUT, help="Write Markdown."),
    click.option("--html", type=FILE_OR_STDOUT, help="Write a page with plots, one file."),
    click.option("--save-inputs", type=FILE, help="Write the inputs for polygraphy run."),
    click.option("--save-outputs", type=FILE, help="Write the candidate's outputs for it."),
    click.option("--save-reference", type=FILE, help="Write the reference's outputs for it."),
    # What is kept.
    click.option(
        "--reference-cache",
        type=FILE,
        help="Folder that keeps what the reference gives.  [default: in the user's cache folder]",
    ),
    click.option("--no-reference-cache", is_flag=True, help="Run the reference every time."),
)


@click.command(cls=RenamingCommand, renamed={"--precision": "--limits-of"})
@click.argument("artifact", required=False, type=FILE)
@_options
@debug_option
def parity(artifact: Path | None, **options: Any) -> int:
    """Judge ARTIFACT against the model it was built from, or any model against another.

    --reference and --candidate take a checkpoint or artifact folder, an .onnx file of any exporter,
    a .plan engine, and --candidate the outputs that polygraphy run saved. A checkpoint may be the
    name of a model on the Hugging Face hub, org/name.

    Exits with 0 within the limits and 1 outside.
    """
    from exporter.parity.report.report_files import ReportFiles, SavedRun, check_writable
    from exporter.parity.report.text import to_table

    reports = ReportFiles(*(options[name] for name in ("json_file", "junit", "markdown", "html")))
    reports.check()
    saves = {name: options[name] for name in ("save_inputs", "save_reference", "save_outputs")}
    for name, path in saves.items():
        if path is not None:
            check_writable(path, f"--{name.replace('_', '-')}")
    saved = SavedRun() if any(saves.values()) else None
    with ProgressLine() as progress:
        result = _compare(artifact, options, _compare_options(options, saved), progress)
    if saved is not None:
        saved.write(*saves.values())
    reports.write(result)
    if not reports.stdout:
        click.echo(to_table(result))
    return 0 if result else 1


def _compare(
    artifact: Path | None, options: dict[str, Any], how: CompareOptions, progress: Progress
) -> ParityResult:
    """Run the check on the two sides that were named."""
    from exporter.artifact.manifest import MANIFEST, read_manifest
    from exporter.model.task import Task
    from exporter.parity.check import compare_sides
    from exporter.parity.sides import open_side, source_side

    reference, candidate, checkpoint, base = _local(options)
    if (artifact is None) == (candidate is None):
        raise InputError("name what to judge: ARTIFACT, or --candidate, one of them")
    judged = artifact or candidate
    assert judged is not None
    try:
        task = None if options["task"] is None else Task(options["task"])
    except ValueError:
        known = ", ".join(item.value for item in Task)
        raise InputError(f"--task {options['task']}: unknown; choose from {known}") from None
    if reference is not None and checkpoint is not None:
        raise InputError("--checkpoint says where ARTIFACT's source is; leave out --reference")
    progress("checking the files")
    side = open_side(judged, task, RuntimeOptions(attention_kernel=options["attention_kernel"]))
    if options["attention_kernel"] and side.info.kind not in ("artifact", "onnx"):
        raise InputError(f"--attention-kernel: {judged} is no graph; leave it out")
    if reference is not None:
        right = open_side(reference, task, base=base)
    else:
        folder = judged if judged.is_dir() else judged.parent
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{judged}: not an artifact, so name what is right with --reference")
        right = source_side(read_manifest(folder), checkpoint, base)
    return compare_sides(right, side, how, progress)


def _local(options: dict[str, Any]) -> list[Path | None]:
    """The sides that were named; those of the hub as folders on this machine."""
    from exporter.deberta.hub_model import is_hub_name, local_model

    given = [options[name] for name in ("reference", "candidate", "checkpoint", "base")]
    named = [path is not None and is_hub_name(path) for path in given]
    revision = options["revision"]
    if revision is not None and not any(named):
        raise InputError(f"--revision {revision}: no side is a name on the hub; leave it out")
    return [
        local_model(path, revision).folder if on_hub else path
        for path, on_hub in zip(given, named, strict=True)
    ]


def _compare_options(options: dict[str, Any], observe: Any) -> CompareOptions:
    """How to compare, from the options of the command."""
    from exporter.inputs.data_sets import DataOptions
    from exporter.parity.check import CompareOptions
    from exporter.parity.store import default_folder

    cache = options["reference_cache"]
    if options["no_reference_cache"] and cache is not None:
        raise InputError("--reference-cache and --no-reference-cache exclude each other")
    if not options["no_reference_cache"] and cache is None:
        try:
            cache = default_folder()
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            text = f"{place}no cache ({error.strerror}), so the reference runs every time"
            warnings.warn(text, stacklevel=2)
    lengths: tuple[int, ...] | None = None
    if (text := options["lengths"]) is not None:
        try:
            lengths = tuple(map(int, [] if text == "none" else text.split(",")))
        except ValueError:
            raise InputError(f"--lengths {text!r}: give numbers, as in 1,63,128, or none") from None
    same = {name: options[name] for name in ("precision", "limits_file", "limits", "layers")}
    data = DataOptions(options["data"], options["labels"], lengths)
    return CompareOptions(data=data, cache=cache, observe=observe, **same)
