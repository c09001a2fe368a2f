"""From an artifact folder to a session."""

from __future__ import annotations

import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from exporter.artifact.files import record
from exporter.artifact.manifest import MODEL_FILE, Manifest, read_manifest
from exporter.deberta.gliner_configuration import read_config
from exporter.deberta.tokenization import load_tokenizer
from exporter.engine.backend import BACKENDS
from exporter.errors import InputError, MissingDependencyError
from exporter.inputs.encode import TextEncoder
from exporter.inputs.gliner_texts import GlinerEncoder
from exporter.model.gliner_head import GlinerHead
from exporter.model.model_shape import ModelShape
from exporter.model.profile import CHOICES, ShapeProfile
from exporter.model.task import Task
from exporter.runtime.batching import Batching
from exporter.runtime.providers.onnx_providers import NAMES, cache_folder, make_providers
from exporter.runtime.rewritten_files import check_files
from exporter.runtime.runtime_options import DEFAULTS, RuntimeOptions
from exporter.runtime.session import Session

OPENVINO = "openvino"
PROVIDERS = (*NAMES, OPENVINO, "torch", *BACKENDS)
GRAPH_PROVIDERS = (*NAMES, OPENVINO)
"""Those that run an ONNX file."""

_ONLY = {
    "threads": ("cpu", OPENVINO),
    "spinning": ("cpu",),
    "attention_kernel": ("cpu",),
    "precision": (OPENVINO,),
    "hint": (OPENVINO,),
    "cache": (OPENVINO,),
}
"""Options that not every provider has, and those that have them."""
_VOCABULARIES = ("tokenizer.json", "spm.model")


def load(
    folder: Path | str,
    provider: str = "cpu",
    *,
    threads: int | None = None,
    options: RuntimeOptions | None = None,
) -> Session:
    """A session over the artifact in `folder`; a warning where it is outside its parity limits.

    Args:
        folder: what `deb-export build` wrote.
        provider: "cpu", "cuda" or "ort-tensorrt" for the graph on ONNX Runtime's CPU, CUDA or
            TensorRT provider; "openvino" for the graph on OpenVINO; "tensorrt" or "tensorrt-rtx"
            for the artifact's engine; "torch" for the reference model from the checkpoint that the
            artifact was built from.
        threads: short for `options=RuntimeOptions(threads=...)`.
        options: threads, batches and what else a runtime lets choose; what suits the machine by
            default.

    Raises:
        InputError: no artifact there, a file of it is missing or of the wrong size, an unknown
            provider, or an option that the provider does not have.
        MissingDependencyError: the provider's software is not installed.
    """
    folder = Path(folder)
    if provider not in PROVIDERS:
        raise InputError(f"provider {provider!r}: unknown; choose from {', '.join(PROVIDERS)}")
    if threads is not None and options is not None:
        raise InputError("threads and options: give the threads as one of the options")
    options = options or RuntimeOptions(threads=threads)
    manifest = read_manifest(folder)
    rewritten = check_files(folder, manifest)
    if rewritten:
        text = f"{', '.join(rewritten)} rewritten since the build, and means the same"
        warnings.warn(f"{folder}: {text}", stacklevel=2)
    if not manifest.passed:
        report = folder / manifest.parity.report
        warnings.warn(f"{folder}: outside its parity limits, see {report}", stacklevel=2)
    session = open_session(folder, manifest, provider, options)
    session.reopen = partial(load, folder.resolve(), provider, options=options)
    for note in session.notes:
        warnings.warn(note, stacklevel=2)
    return session


def check_options(options: RuntimeOptions, *providers: str) -> None:
    """Raise an InputError that names an option that none of the providers has, and who has it."""
    for name in options.given():
        where = _ONLY.get(name, PROVIDERS)
        if not set(providers) & set(where):
            raise InputError(
                f"provider {providers[0]!r} has no option {name!r}, {' and '.join(where)} "
                f"{'has' if len(where) == 1 else 'have'}; leave it out"
            )


def suited(options: RuntimeOptions, provider: str) -> RuntimeOptions:
    """The options that a provider has; the others as by default."""
    names = [name for name in options.given() if provider in _ONLY.get(name, PROVIDERS)]
    return RuntimeOptions(**{name: getattr(options, name) for name in names})


def open_session(
    folder: Path,
    manifest: Manifest,
    provider: str,
    options: RuntimeOptions = DEFAULTS,
    graph: Path | None = None,
) -> Session:
    """As `load`, for a manifest at hand, with no check of the files.

    `graph` is another .onnx file to run in the place of the artifact's, on a provider of graphs.

    Raises:
        InputError: a file that is needed is missing or broken, or an option that the provider does
            not have.
        MissingDependencyError: the provider's software is not installed.
    """
    check_options(options, provider)
    shape = artifact_shape(folder, manifest)
    text = text_encoder(folder, shape.task, manifest.seq.max, shape.gliner)
    if provider == "torch":
        source = source_folder(manifest)
        require_torch()
        from exporter.deberta.checkpoint import open_checkpoint
        from exporter.runtime.providers.torch_session import TorchSession

        checkpoint = open_checkpoint(source, shape.task, base=source_base(manifest))
        return TorchSession(checkpoint, text, options)
    if provider in BACKENDS:
        from exporter.runtime.providers.tensorrt_session import TensorRtSession

        engine = next((item for item in manifest.engines if item.target == provider), None)
        if engine is None:
            raise InputError(
                f"{folder}: has no engine of {provider}; build it with --target {provider}"
            )
        batching = Batching.of(options)
        return TensorRtSession(folder / engine.file, engine, shape, text, batching=batching)
    path, half, bits = graph or folder / MODEL_FILE, None, 8
    if graph is None:
        half, bits = manifest.half, manifest.weight_bits or 8
    if provider == OPENVINO:
        from exporter.runtime.providers.openvino_session import OpenVinoSession

        return OpenVinoSession(path, shape, text, options, half=half, weight_bits=bits)
    if provider == "cpu" and half == "bf16":
        # Its CPU provider has no kernels for bf16.
        from exporter.runtime.providers.rounded_session import open_rounded

        return open_rounded(path, shape, text, options)
    from exporter.runtime.providers.onnx_session import OnnxSession

    hashes = {item.path: item.sha256 for item in manifest.files}
    key = hashes.get(MODEL_FILE, "unknown") if graph is None else record(graph).sha256
    profile = ShapeProfile(manifest.batch, manifest.seq, CHOICES if shape.rank == 3 else None)
    providers = make_providers(provider, shape.inputs, profile, cache_folder(key))
    return OnnxSession(
        path, shape, text, options, provider=provider, providers=providers, weight_bits=bits
    )


def artifact_shape(folder: Path, manifest: Manifest) -> ModelShape:
    """Configuration and task of an artifact; an InputError where either is missing or unknown."""
    try:
        task = Task(manifest.task)
    except ValueError:
        raise InputError(f"{folder}: the manifest's task {manifest.task!r} is unknown") from None
    return read_config(folder).shape(task)


def text_encoder(
    folder: Path, task: Task, max_length: int, gliner: GlinerHead | None = None
) -> TextEncoder | None:
    """The tokenizer of a folder; None without vocabulary, an InputError where files are broken.

    `gliner` is the head of a GLiNER model.
    """
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        return None
    tokenizer = load_tokenizer(folder)
    if gliner is not None:
        try:
            return GlinerEncoder(tokenizer, task, max_length, gliner)
        except InputError as error:
            raise InputError(f"{folder}: {error}") from None
    return TextEncoder(tokenizer, task, max_length)


def source_folder(manifest: Manifest) -> Path:
    """The checkpoint that an artifact was built from; an InputError where it is there no more."""
    if manifest.source.demo:
        from exporter.demo import checkpoint_folder

        return checkpoint_folder()
    folder = Path(manifest.source.folder)
    if not folder.is_dir() and manifest.source.hub:
        from exporter.deberta.hub_model import local_model

        fetched = local_model(Path(manifest.source.hub), manifest.source.commit).folder
        # The model may lie in a folder of the repository.
        inside = str(folder).partition(manifest.source.commit)[2].lstrip("/")
        return fetched / inside
    if not folder.is_dir():
        raise InputError(f"{folder}: the source checkpoint is gone; name its folder: --checkpoint")
    return folder


def source_base(manifest: Manifest) -> Path | None:
    """The model that an adapter was merged into, where it lay elsewhere than the adapter."""
    source = manifest.source
    return Path(source.base) if source.base else None


def require_torch() -> None:
    """Raise a MissingDependencyError where PyTorch is not installed."""
    if find_spec("torch") is None:
        raise MissingDependencyError('PyTorch is not installed; pip install "deb-export[cpu]"')
