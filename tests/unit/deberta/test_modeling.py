"""The reference model against `transformers`, over random configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.random_models import random_config, random_inputs, random_model, valid_outputs

from exporter.deberta.activations import FUNCTIONS
from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.deberta.configuration import ACTIVATIONS
from exporter.deberta.heads import make_model
from exporter.model.task import output_names

CONFIGURATIONS = 216
LENGTHS = (1, 2, 63, 77, 129, 300, 600)
RELATIVE_TOLERANCE = 1e-5


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference relative to the largest magnitude of the expected output."""
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("seed", range(CONFIGURATIONS))
def test_same_outputs_as_transformers(seed: int, tmp_path: Path) -> None:
    fields, task = random_config(seed)
    reference = random_model(fields, task, seed)
    reference.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.task is task
    model = load_model(checkpoint)

    for length in {LENGTHS[seed % len(LENGTHS)], LENGTHS[(seed * 5 + 2) % len(LENGTHS)]}:
        if fields["position_biased_input"] and length > fields["max_position_embeddings"]:
            length = fields["max_position_embeddings"]
        batch = 1 + seed % 3
        inputs = random_inputs(fields, task, batch, length, seed)
        with torch.no_grad():
            expected = reference(**inputs, return_dict=True)
            actual = model(**inputs)
        mask = inputs["attention_mask"]
        wanted = valid_outputs(task, tuple(expected[n] for n in output_names(task)), mask)
        for ours, theirs in zip(valid_outputs(task, actual, mask), wanted, strict=True):
            assert ours.shape == theirs.shape
            # In double precision both would agree to 1e-14; fp32 sums in another order differ.
            assert relative_error(ours, theirs) < RELATIVE_TOLERANCE


def test_the_random_configurations_cover_every_variant() -> None:
    seen: dict[str, set[str]] = {}
    for seed in range(CONFIGURATIONS):
        fields, task = random_config(seed)
        for key, value in {**fields, "task": task}.items():
            seen.setdefault(key, set()).add(str(value))
    assert len(seen["task"]) == 6
    assert seen["hidden_act"] == seen["pooler_hidden_act"] == set(ACTIVATIONS)
    assert len(seen["conv_act"]) > 15
    for key in ("pos_att_type", "conv_kernel_size", "embedding_size", "attention_head_size"):
        assert len(seen[key]) >= 2, key
    for key in ("share_att_key", "relative_attention", "position_biased_input", "legacy"):
        assert seen[key] == {"True", "False"}, key


def test_every_activation_of_the_configuration_exists() -> None:
    assert set(ACTIVATIONS) == set(FUNCTIONS) | {"prelu", "xielu"}


def test_a_fully_masked_sequence_is_finite() -> None:
    fields, task = random_config(1)
    from exporter.deberta.configuration import DebertaConfig

    config = DebertaConfig.from_dict({"model_type": "deberta-v2", **fields})
    model = make_model(config, task).eval()
    inputs = random_inputs(fields, task, 2, 9, 1)
    inputs["attention_mask"][1] = 0
    with torch.no_grad():
        assert all(torch.isfinite(output).all() for output in model(**inputs))
