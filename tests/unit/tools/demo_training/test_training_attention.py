"""The training attention against the stock module of transformers."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from transformers import DebertaV2ForSequenceClassification

from tools.demo_training.settings import TrainingConfig
from tools.demo_training.training import model_config
from tools.demo_training.training_attention import use_training_attention

SMALL = replace(TrainingConfig(), pieces=97, hidden_size=24, layers=2, heads=3, dropout=0.0)


def stock_model() -> DebertaV2ForSequenceClassification:
    torch.manual_seed(5)
    config = model_config(SMALL)
    config.initializer_range = 0.3  # large position terms, so that a wrong slot shows
    model = DebertaV2ForSequenceClassification(config)
    model.train(False)
    return model


# 600 goes beyond the saturation of the slots at 512.
@pytest.mark.parametrize("length", [1, 2, 7, 63, 77, 300, 600])
def test_outputs_and_gradients_are_those_of_the_stock_module(length: int) -> None:
    stock = stock_model()
    ours = copy.deepcopy(stock)
    use_training_attention(ours)
    ids = torch.randint(4, 98, (3, length))
    mask = torch.ones_like(ids)
    mask[1, max(1, length // 2) :] = 0
    outputs = []
    for model in (stock, ours):
        logits = model(input_ids=ids, attention_mask=mask).logits
        logits.square().sum().backward()
        gradient = model.deberta.encoder.rel_embeddings.weight.grad
        outputs.append((logits.detach(), gradient))
    for expected, actual in zip(*outputs, strict=True):
        scale = expected.abs().max().item()
        # One key gets all attention, whatever its score: no gradient.
        assert scale > 0 or length == 1
        torch.testing.assert_close(actual, expected, rtol=0, atol=3e-5 * scale)


def test_a_model_of_another_kind_is_refused() -> None:
    config = model_config(SMALL)
    config.share_att_key = False
    with pytest.raises(ValueError, match="share_att_key"):
        use_training_attention(DebertaV2ForSequenceClassification(config))
