"""What is timed and compared: batches of real text of a given shape, and texts as they come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.artifact.manifest import Manifest
from exporter.bench.bench_config import BenchConfig
from exporter.errors import InputError
from exporter.inputs.data_sets import examples_of
from exporter.inputs.encode import TextEncoder, TextInput, collate
from exporter.inputs.text_files import demo_texts, model_texts
from exporter.model.feeds import Ids
from exporter.model.model_shape import ModelShape
from exporter.runtime.batching import Batching, batches

COMPARED_TEXTS = 64
_COMPARED_TOKENS = 2048


@dataclass(frozen=True)
class Workload:
    """Something to time: a batch of one shape, or texts.

    Attributes:
        name: such as `8x128` or `texts`.
        sentences, tokens: examples and valid tokens in it.
        feeds: a batch by input name; None for texts.
        texts: from texts to predictions; empty for a batch.
    """

    name: str
    sentences: int
    tokens: int
    feeds: Mapping[str, Ids] | None
    texts: tuple[TextInput, ...] = ()


def make_inputs(
    config: BenchConfig, manifest: Manifest, shape: ModelShape, encoder: TextEncoder | None
) -> tuple[list[Workload], list[Mapping[str, Ids]]]:
    """What to time, and the batches whose outputs are compared before.

    A batch holds text without padding: the file's, else the demo's; random ids for an artifact
    without tokenizer. Multiple choice has three choices. Compared are these batches, the same with
    ragged padding, and the first texts in padded batches.

    Raises:
        InputError: a shape is longer than the artifact takes, texts cannot be used.
    """
    longest = manifest.seq.max
    for batch, length in config.shapes:
        if length > longest:
            raise InputError(
                f"--shape {batch}x{length}: the artifact takes up to {longest} tokens; "
                "build it with a larger --seq"
            )
    if config.data is not None and encoder is None:
        raise InputError("--data: the artifact has no tokenizer; time a --shape")
    texts = model_texts(config.data or demo_texts(), shape)
    if config.data is not None:
        texts = texts[: config.texts]
    source = examples_of(shape, encoder, texts, longest)
    workloads: list[Workload] = []
    compared: list[Mapping[str, Ids]] = []

    def batch_of(lengths: Sequence[int]) -> Mapping[str, Ids]:
        compared.append(collate([source(i, length) for i, length in enumerate(lengths)], shape))
        return compared[-1]

    for batch, length in config.shapes:
        full = batch_of([length] * batch)
        tokens = int(full["attention_mask"].sum())
        workloads.append(Workload(f"{batch}x{length}", batch, tokens, full))
        if batch > 1:
            batch_of([max(1, length * (index + 1) // batch) for index in range(batch)])
    if encoder is not None and config.data is not None:
        examples = [encoder.encode(text) for text in texts]
        tokens = sum(len(row) for example in examples for row in example.rows)
        workloads.append(Workload("texts", len(texts), tokens, None, texts))
        some = examples[:COMPARED_TEXTS]
        compared += [
            collate([some[index] for index in group], shape)
            for group in batches(some, shape, Batching(tokens=_COMPARED_TOKENS))
        ]
    return workloads, compared
