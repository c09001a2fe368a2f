"""Models of the package `gliner`, where it is installed."""

from __future__ import annotations

from typing import Any

import torch

from support.gliner_models import weight


def oracle(raw: dict[str, Any], seed: int) -> torch.nn.Module:
    """The model of `gliner`, its weights those of `support.gliner_models`."""
    from gliner.config import UniEncoderSpanConfig, UniEncoderTokenConfig
    from gliner.modeling.base import UniEncoderSpanModel, UniEncoderTokenModel

    fields = {key: value for key, value in raw.items() if key != "model_type"}
    fields["encoder_config"] = dict(raw["encoder_config"])
    spans = raw["span_mode"] == "markerV0"
    config = (UniEncoderSpanConfig if spans else UniEncoderTokenConfig)(**fields)
    model = (UniEncoderSpanModel if spans else UniEncoderTokenModel)(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, tuple(parameter.shape), seed)))
    return model
