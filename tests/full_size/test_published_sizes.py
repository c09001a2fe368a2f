"""Builds at the widths of published models, random weights: export, parity, tampering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support.parity_results import judged_again

import exporter

V3: dict[str, Any] = {
    "vocab_size": 128100,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
}
SIZES: dict[str, dict[str, Any]] = {
    "v3-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    # The 1.5B model's width and convolution; its 48 layers take more than a test should.
    "v2-xxlarge, 3 layers": {
        "hidden_size": 1536,
        "num_hidden_layers": 3,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
        "attention_head_size": 64,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_published_size_builds_and_passes_parity(size: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.DebertaV2Config(**V3, **SIZES[size], num_labels=3)
    model = transformers.DebertaV2ForSequenceClassification(config)
    model.save_pretrained(tmp_path / "checkpoint")
    del model

    build = exporter.BuildConfig(
        model=tmp_path / "checkpoint",
        output=tmp_path / "artifact",
        seq=exporter.Range(1, 64, 128),
        targets=("onnx",),
    )
    with pytest.warns(UserWarning, match="no tokenizer"):
        manifest = exporter.build(build)
    assert manifest.passed, manifest.parity.failures
    assert manifest.graph["attention_nodes"] == config.num_hidden_layers

    graph = tmp_path / "artifact" / "model.onnx"
    content = bytearray(graph.read_bytes())
    # One bit near the end, where the weights are.
    content[-4 * 1000 + 3] ^= 0x80
    graph.write_bytes(content)
    result = judged_again(tmp_path / "artifact")
    assert not result
    assert any("model.onnx" in failure for failure in result.failures)
