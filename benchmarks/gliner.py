"""GLiNER on a CPU: ours in fp32 and int8 beside `gliner` in PyTorch, its ONNX, and that in int8.

Times are of the base shape with random weights (12 layers of 768, a head of 512 with an LSTM; the
demo's vocabulary, which no product sees), in processor time of one thread, the contenders in turn.
Entities are those of the tiny trained model of the tests, each contender's against PyTorch's.

In an environment with gliner (docs/verification.md):
    PYTHONPATH=. OMP_NUM_THREADS=1 python -m benchmarks.gliner FOLDER
FOLDER keeps the graphs.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from calibration.texts import TextItem
from exporter.deberta.checkpoint import open_checkpoint
from exporter.demo import checkpoint_folder
from exporter.graph.export import export_onnx
from exporter.inputs.encode import collate
from exporter.model.gliner_entities import chosen, span_logits
from exporter.model.model_shape import ModelShape
from exporter.precision.quantized.quantization_input import quantization_input
from exporter.precision.quantized.quantization_options import QuantizationOptions
from exporter.precision.quantized.to_quantized import convert_file
from exporter.runtime.load import text_encoder
from tools.gliner_training.sentences import LABELS, sentence

Feeds = Mapping[str, np.ndarray[Any, Any]]
Run = Callable[[Feeds], np.ndarray[Any, Any]]
TINY = Path(__file__).parents[1] / "tests" / "golden" / "gliner_model"
CONTENDERS = ("gliner onnx", "gliner onnx int8", "gliner torch", "ours fp32", "ours int8")
SHARED_TEXTS = 200


def write_base(folder: Path) -> Path:
    """A folder of the base shape as `gliner` writes it."""
    import transformers
    from gliner.config import UniEncoderSpanConfig
    from gliner.model import UniEncoderSpanGLiNER

    encoder = json.loads((checkpoint_folder() / "config.json").read_text())
    for name in ("architectures", "id2label", "label2id", "dtype"):
        encoder.pop(name, None)
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12}
    encoder |= {**sizes, "intermediate_size": 3072, "pooler_hidden_size": 768}
    config = UniEncoderSpanConfig(model_name="base", encoder_config=encoder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint_folder())
    torch.manual_seed(1)
    model = UniEncoderSpanGLiNER(config, tokenizer=tokenizer, backbone_from_pretrained=False)
    UniEncoderSpanGLiNER._resize_token_embeddings(model, config, tokenizer)
    model.eval().save_pretrained(folder, safe_serialization=True)
    return folder


def make_graphs(source: Path, folder: Path) -> dict[str, Path]:
    """The graphs of every contender but PyTorch, made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"ours fp32": folder / "fp32.onnx", "ours int8": folder / "int8.onnx"}
    theirs = folder / "gliner"
    paths["gliner onnx"] = theirs / "model.onnx"
    paths["gliner onnx int8"] = theirs / "model_quantized.onnx"
    checkpoint = open_checkpoint(source)
    shape = checkpoint.shape
    if not paths["ours fp32"].exists():
        export_onnx(checkpoint, paths["ours fp32"], external_data=True)
    if not paths["ours int8"].exists():
        rng = random.Random(3)
        lines = [json.dumps({"text": sentence(rng).text, "choices": LABELS}) for _ in range(96)]
        (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")
        encoder = text_encoder(source, shape.task, shape.usual_longest, shape.gliner)
        options = QuantizationOptions()
        given = quantization_input("int8", options, folder / "texts.jsonl", shape, encoder)
        convert_file(
            paths["ours fp32"],
            paths["ours int8"],
            folder / "calibration.json",
            shape,
            given,
            model_hash=source.name,
            previous=folder / "none",
            judged=given.text.held_back.feeds,
        )
    if not paths["gliner onnx int8"].exists():
        from gliner import GLiNER

        GLiNER.from_pretrained(source).export_to_onnx(theirs, quantize=True)
    return paths


def runners(source: Path, paths: Mapping[str, Path]) -> dict[str, Run]:
    """What runs each contender on one thread."""
    from gliner import GLiNER

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = GLiNER.from_pretrained(source).model.eval()

    def torch_run(feeds: Feeds) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            given = {name: torch.from_numpy(array) for name, array in feeds.items()}
            found: np.ndarray[Any, Any] = model(**given).logits.numpy()
            return found

    found: dict[str, Run] = {"gliner torch": torch_run}
    for name, path in paths.items():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found[name] = lambda feeds, session=session: session.run(None, dict(feeds))[0]
    return {name: found[name] for name in CONTENDERS}


def inputs(source: Path, shape: ModelShape, words: int, labels: int, batch: int) -> Feeds:
    """So many texts of so many words, asked for so many labels."""
    rng = random.Random(words)
    encoder = text_encoder(source, shape.task, 2048, shape.gliner)
    assert encoder is not None
    asked = tuple(f"{LABELS[i % 6]} {i // 6 or ''}".strip() for i in range(labels))
    made = []
    for _ in range(batch):
        text = " ".join(sentence(rng).text for _ in range(words // 4 + 1))
        spans = encoder.encode(TextItem(text, asked)).words[:words]
        made.append(encoder.encode(TextItem(text[: spans[-1][1]], asked)))
    return collate(made, shape)


def shares(run: Run, expected: list[set[tuple[int, int, int]]], feeds: list[Feeds]) -> float:
    """Share of the expected entities that a contender finds."""
    shape = open_checkpoint(TINY).shape
    assert shape.gliner is not None
    found = 0
    for wanted, given in zip(expected, feeds, strict=True):
        words = int(given["text_lengths"][0, 0])
        spans = chosen(span_logits(shape.gliner, run(given)[0], words, len(LABELS), 0.5))
        found += len(wanted & {(s.start, s.end, s.label) for s in spans})
    return found / sum(map(len, expected))


def entities(folder: Path) -> dict[str, float]:
    """The share of PyTorch's entities of the tiny model that each contender finds."""
    shape = open_checkpoint(TINY).shape
    encoder = text_encoder(TINY, shape.task, 512, shape.gliner)
    assert encoder is not None and shape.gliner is not None
    runs = runners(TINY, make_graphs(TINY, folder))
    rng = random.Random(11)
    texts = [sentence(rng).text for _ in range(SHARED_TEXTS)]
    feeds: list[Feeds] = [collate([encoder.encode((text, LABELS))], shape) for text in texts]
    expected = []
    for given in feeds:
        words = int(given["text_lengths"][0, 0])
        logits = runs["gliner torch"](given)[0]
        spans = chosen(span_logits(shape.gliner, logits, words, len(LABELS), 0.5))
        expected.append({(s.start, s.end, s.label) for s in spans})
    return {name: shares(run, expected, feeds) for name, run in runs.items()}


def main() -> None:
    """Print a row of CSV for each workload and contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--words", type=int, nargs="+", default=[32, 128, 384])
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 25])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    given = parser.parse_args()
    out = csv.writer(sys.stdout)
    out.writerow(["words", "labels", "batch", "contender", "seconds", "of gliner onnx", "entities"])
    kept = entities(given.folder / "tiny")
    for name, share in kept.items():
        out.writerow(["", len(LABELS), 1, name, "", "", f"{share:.4f}"])
    base = given.folder / "base"
    source = base / "source" if (base / "source").exists() else write_base(base / "source")
    runs = runners(source, make_graphs(source, base))
    shape = open_checkpoint(source).shape
    for batch in given.batches:
        for labels in given.labels:
            for words in given.words:
                feeds = inputs(source, shape, words, labels, batch)
                seconds: dict[str, list[float]] = {name: [] for name in runs}
                for _ in range(1 + given.rounds):
                    for name, run in runs.items():
                        start = time.process_time()
                        run(feeds)
                        seconds[name].append(time.process_time() - start)
                first = statistics.median(seconds["gliner onnx"][1:])
                for name, values in seconds.items():
                    found = statistics.median(values[1:])  # the first is a warm-up
                    ratio = f"{found / first:.3f}"
                    out.writerow([words, labels, batch, name, f"{found:.4f}", ratio, ""])
                sys.stdout.flush()


if __name__ == "__main__":
    main()
