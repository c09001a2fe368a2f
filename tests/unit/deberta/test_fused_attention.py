"""The reference model with `attention="fused"`: the same outputs, one node of a traced graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.random_models import random_config, random_inputs, random_model, valid_outputs

from exporter.deberta.checkpoint import load_model, open_checkpoint
from exporter.deberta.configuration import DebertaConfig
from exporter.deberta.heads import make_model
from exporter.errors import InputError


@pytest.mark.parametrize("seed", range(12))
def test_fused_equals_eager(seed: int, tmp_path: Path) -> None:
    fields, task = random_config(seed)
    random_model(fields, task, seed).save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    eager, fused = load_model(checkpoint), load_model(checkpoint, attention="fused")
    inputs = random_inputs(fields, task, 2, 19, seed)
    calls: list[str] = []
    with torch.no_grad(), _Recorder(calls):
        wanted = eager(**inputs)
        assert not any("disentangled_attention" in name for name in calls)
        ours = fused(**inputs)
    assert calls.count("deb_export.disentangled_attention.default") == fields["num_hidden_layers"]
    mask = inputs["attention_mask"]
    for one, other in zip(
        valid_outputs(task, ours, mask), valid_outputs(task, wanted, mask), strict=True
    ):
        assert torch.equal(one, other)


def test_torch_compile_takes_it_whole_with_any_shape() -> None:
    fields, task = random_config(3)
    config = DebertaConfig.from_dict({"model_type": "deberta-v2", **fields})
    torch.manual_seed(0)
    model = make_model(config, task, attention="fused").eval().requires_grad_(False)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=keep, fullgraph=True, dynamic=True)
    for length in (19, 8, 31):
        inputs = random_inputs(fields, task, 2, length, 3)
        for ours, wanted in zip(compiled(**inputs), model(**inputs), strict=True):
            assert torch.equal(ours, wanted)
    assert len(graphs) == 1, "a new length was compiled again"
    nodes = [str(node.target) for node in graphs[0].graph.nodes]
    named = [name for name in nodes if "disentangled_attention" in name]
    assert len(named) == fields["num_hidden_layers"]


def test_another_attention_is_refused() -> None:
    fields, task = random_config(1)
    config = DebertaConfig.from_dict({"model_type": "deberta-v2", **fields})
    with pytest.raises(InputError, match="attention is 'flash'; there are eager and fused"):
        make_model(config, task, attention="flash")  # type: ignore[arg-type]


class _Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        self.calls.append(str(func))
        result: torch.Tensor = func(*args, **(kwargs or {}))
        return result
