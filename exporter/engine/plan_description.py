"""What is in a .plan: its header, what the manifest beside it records, and its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibration.json_values import to_json_values
from exporter.artifact.engine_record import EngineRecord
from exporter.artifact.files import FileProblem, verify_files
from exporter.artifact.manifest import MANIFEST, read_manifest
from exporter.engine.layers import Kernel, KernelSummary, from_inspector, layers_path, read_kernels
from exporter.engine.plan_file import PlanHeader, deserialize, read_header
from exporter.environment import gpus
from exporter.errors import DebExportError

_MOST_FUSIONS = 12


@dataclass(frozen=True)
class PlanDescription:
    """An engine: what its first bytes say, and what the manifest beside it does.

    `precision` and `record` are None without a manifest, `kernels` are none where nothing tells
    them. `problems` are the differences of the plan and its list of kernels from the manifest.
    """

    path: Path
    header: PlanHeader
    precision: str | None
    record: EngineRecord | None
    kernels: tuple[Kernel, ...]
    problems: tuple[FileProblem, ...]

    @property
    def summary(self) -> KernelSummary:
        """What the kernels amount to."""
        return KernelSummary.of(self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """The description as JSON takes it."""
        return {**to_json_values(self), "summary": to_json_values(self.summary)}


def describe_plan(path: Path) -> PlanDescription:
    """Describe a plan; neither TensorRT nor a GPU is needed where it lies in its artifact.

    Raises:
        InputError: no such file, not a plan or one that is cut short, or the manifest beside it is
            broken.
    """
    header, folder = read_header(path), path.parent
    manifest = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    engines = manifest.engines if manifest else ()
    record = next((item for item in engines if item.file == path.name), None)
    if manifest is None or record is None:
        layers = layers_path(path)
        kernels = read_kernels(layers) if layers.is_file() else _kernels_on_gpu(path, header)
        return PlanDescription(path, header, None, None, kernels, ())
    ours = [item for item in manifest.files if item.path in (record.file, record.layers)]
    layers = folder / record.layers
    listed = layers.is_file() and any(item.path == record.layers for item in ours)
    kernels = read_kernels(layers) if listed else ()
    problems = verify_files(folder, ours)
    return PlanDescription(path, header, manifest.precision, record, kernels, problems)


def _kernels_on_gpu(path: Path, header: PlanHeader) -> tuple[Kernel, ...]:
    """The kernels of an engine that can be loaded here, else none; CI loads a stand-in."""
    if not gpus():
        return ()
    try:
        trt = header.backend.load()
        _, engine = deserialize(header.backend, trt, path)
    except DebExportError:
        return ()
    inspector = engine.create_engine_inspector()
    return from_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def plan_lines(found: PlanDescription) -> Iterator[str]:
    """The description for people."""
    title = found.header.backend.title
    yield f"engine     {found.path}  {found.header.bytes / 2**20:.1f} MiB"
    yield f"builder    {title} {found.header.version}"
    record = found.record
    if record is None:
        yield "manifest   none beside it names this engine, so its precision and shapes are unknown"
        if not found.kernels:
            yield f"kernels    unknown: {title} lists them on the engine's GPU only"
            return
        yield f"attention  {found.summary.attention}"
        yield from _kernel_lines(found)
        return
    yield f"precision  {found.precision}"
    for index, profile in enumerate(record.profiles):
        yield f"profile {index}  {profile}"
    given = {name: value for name, value in to_json_values(record.options).items() if value}
    if numbers := record.options.compute_capabilities:
        given["compute_capabilities"] = " and ".join(map(str, numbers))
    if given:
        yield "options    " + ", ".join(f"{name} {value}" for name, value in given.items())
    for name, size in (("weights", record.weight_bytes), ("activation", record.activation_bytes)):
        if size is not None:
            yield f"memory     {name} {size / 2**20:.1f} MiB"
    peak_gib = record.host_peak_bytes / 2**30
    yield f"build      {record.seconds:.1f} s, {peak_gib:.2f} GiB of memory"
    yield f"attention  {record.attention}, built from the form: {record.body}"
    yield from _kernel_lines(found)
    for problem in found.problems:
        yield f"CHANGED    {problem.path} {problem.problem}"


def _kernel_lines(found: PlanDescription) -> Iterator[str]:
    """The kernels by kind and type, and those that compute most ONNX nodes."""
    summary = found.summary
    for label, counts in (("kernels", summary.kinds), ("types", summary.dtypes)):
        total = sum(counts.values())
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield f"{label:10} {total}: {listed}"
    fused = sorted((k for k in found.kernels if len(k.nodes) > 1), key=lambda k: -len(k.nodes))
    for kernel in fused[:_MOST_FUSIONS]:
        names = [node.partition(" | ")[0] for node in kernel.nodes]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield f"fused      {kernel.kind}: {', '.join(names[:4])}{more}"
    if len(fused) > _MOST_FUSIONS:
        yield f"fused      {len(fused) - _MOST_FUSIONS} more kernels; see --json"
