"""A manifest of an artifact that is nothing but files."""

from __future__ import annotations

from exporter.artifact.files import FileRecord
from exporter.artifact.manifest import Manifest, ParitySummary, Source
from exporter.model.profile import Range

EMPTY = Manifest(
    tool="deb-export 0.1.0",
    created="2025-01-02T03:04:05+00:00",
    source=Source("/models/x", False, (FileRecord("config.json", 3, "ab" * 32),)),
    precision="fp32",
    targets=("onnx",),
    task="base",
    inputs=("input_ids", "attention_mask"),
    outputs=("last_hidden_state",),
    batch=Range(1, 8, 32),
    seq=Range(1, 128, 512),
    labels={0: "bad", 1: "good"},
    model={"hidden_size": 24},
    graph={"opset": 20},
    environment={"python": "3.11"},
    parity=ParitySummary(True, "parity.json"),
    limits=({"metric": "max_relative", "bound": 1e-4},),
    seconds={"export": 1.5},
    files=(FileRecord("model.onnx", 3, "cd" * 32),),
    skipped={"tensorrt": "no GPU"},
)
