"""The reference model with the arithmetic of a plan: what a graph of that plan has to compute.

Made from the checkpoint and the plan alone. Every rounding that the plan asks for is done where it
asks for it; all between is fp32, as in the reference. `B` batch, `S` sequence, `H` heads, `D` head
size, `R` position slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from calibration.error_feedback import ErrorFeedback, reader_metric
from calibration.formats import NumberFormat
from calibration.tables import TableRounding, quantized_rows, row_scale
from exporter.deberta.checkpoint import Checkpoint, load_model
from exporter.deberta.heads import base_of, encoder_of
from exporter.deberta.modeling import Layer, SelfAttention
from exporter.precision.precision_plan import HalfArithmetic, PrecisionPlan, SitePlan

_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}

Told = TypeVar("Told")
Round = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def emulated_model(checkpoint: Checkpoint, plan: PrecisionPlan) -> nn.Module:
    """The model of a checkpoint, its modules replaced as the plan says.

    Its attention has the packed projection as `attention.self.qkv`, as the plan and the graph do.

    Raises:
        InputError: a weight cannot be read.
        ValueError: the plan names what the model does not have: it is another model's.
    """
    model = load_model(checkpoint)
    tables = _tied(checkpoint, plan.tables)
    feedback = _feedback(model) if TableRounding.FEEDBACK in tables.values() else None
    encoder = encoder_of(model)
    prefix = next(name for name, module in model.named_modules() if module is encoder)
    relative = encoder.relative_embeddings(torch.zeros(1, checkpoint.config.hidden_size))
    for index, layer in enumerate(encoder.layer):
        assert isinstance(layer, Layer)
        reference = layer.attention.self
        path = f"{prefix}.layer.{index}.attention"
        factors = plan.folded.get(f"{path}.output.dense")
        if factors is not None:
            dense = layer.attention.output.dense
            dense.weight = nn.Parameter(dense.weight * torch.from_numpy(factors))
        half = plan.half if plan.half is not None and index in plan.half.attention else None
        planned = PlannedAttention(_packed(reference, factors), reference, relative, half)
        for name in ("pos_key", "pos_query"):
            if tables.pop(f"{path}.self.{name}", None) is not None:
                setattr(planned, name, stored_positions(getattr(planned, name)))
        layer.attention.set_submodule("self", planned)
    _store_tables(model, tables, feedback)
    _replace_products(model, plan, checkpoint)
    return model.eval()


def _tied(checkpoint: Checkpoint, weights: Mapping[str, Told]) -> dict[str, Told]:
    """The same with all names of a tensor that the checkpoint has once."""
    sources, found = checkpoint.sources, dict(weights)
    for name, source in sources.items():
        for other, what in weights.items():
            if sources.get(other) == source:
                found[name] = what
    return found


def _packed(attention: SelfAttention, factors: object) -> nn.Linear:
    """The three projections as one, the values divided by `factors`."""
    parts = (attention.query_proj, attention.key_proj, attention.value_proj)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    if factors is not None:
        width = len(weight) // 3
        reciprocal = 1.0 / torch.as_tensor(factors)
        weight[2 * width :] *= reciprocal[:, None]
        bias[2 * width :] *= reciprocal
    packed = nn.Linear(weight.shape[1], len(weight), device="meta")
    packed.weight, packed.bias = nn.Parameter(weight), nn.Parameter(bias)
    return packed


def _store_tables(
    model: nn.Module, tables: Mapping[str, TableRounding], feedback: ErrorFeedback | None
) -> None:
    """Words as they are stored, by the name of their weight in the reference model."""
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, how in tables.items():
        if name not in weights:
            raise ValueError(f"the plan has {name}, which the model does not have")
        path, _, part = name.rpartition(".")
        words = weights[name].detach()
        if how is TableRounding.FEEDBACK:
            array = words.numpy()
            rows = torch.from_numpy(quantized_rows(array, feedback) * row_scale(array))
        else:
            rows = stored_rows(words)
        model.get_submodule(path).register_parameter(part, nn.Parameter(rows, requires_grad=False))


def _feedback(model: nn.Module) -> ErrorFeedback:
    """What `calibration.tables.word_feedback` has of a graph."""
    base = base_of(model)
    embeddings, layer = base.embeddings, base.encoder.layer[0]
    assert isinstance(layer, Layer)
    attention, before = layer.attention.self, embeddings.embed_proj
    parts = (attention.query_proj, attention.key_proj, attention.value_proj)
    projection = torch.cat([part.weight for part in parts]).T.contiguous()
    return ErrorFeedback(
        reader_metric(
            projection.numpy(),
            embeddings.LayerNorm.weight.numpy(),
            None if before is None else before.weight.T.contiguous().numpy(),
        )
    )


def _replace_products(model: nn.Module, plan: PrecisionPlan, checkpoint: Checkpoint) -> None:
    """Replace linear layers, convolutions and tables that the plan names."""
    half = plan.half
    wanted = {*plan.sites, *(() if half is None else half.products)}
    stored = () if half is None else _tied(checkpoint, dict.fromkeys(half.stored, half.dtype))
    wanted |= {name.removesuffix(".weight") for name in stored if name.endswith(".weight")}
    for name, module in list(model.named_modules()):
        if name not in wanted:
            continue
        wanted.remove(name)
        if name in plan.sites:
            assert plan.number is not None
            numbers = (plan.number, plan.weights or plan.number)
            made: nn.Module = QuantizedLinear(module, plan.sites[name], *numbers)
        else:
            assert half is not None
            made = HalfProduct(
                module,
                half.dtype,
                product=name in half.products,
                bias=f"{name}.bias" in half.stored,
            )
        model.set_submodule(name, made)
    if wanted:
        raise ValueError(f"the plan has {sorted(wanted)[0]}, which the model does not have")


class QuantizedLinear(nn.Module):
    """A linear layer on quantized inputs and weights, summed without rounding."""

    def __init__(
        self, linear: nn.Module, site: SitePlan, number: NumberFormat, weights: NumberFormat
    ) -> None:
        super().__init__()
        weight: torch.Tensor = linear.get_parameter("weight")
        self.number = number
        self.scale = torch.tensor([site.input_scale])
        self.reciprocal = None
        if site.factors is not None:
            factors = torch.from_numpy(site.factors)
            self.reciprocal = 1.0 / factors
            weight = weight * factors
        scale = torch.from_numpy(site.weight_scale)[:, None]
        self.weight: torch.Tensor = quantized_weight(weight, scale, weights)
        self.bias = linear.get_parameter("bias") + torch.from_numpy(site.shift)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(..., K)` -> `(..., N)`."""
        if self.reciprocal is not None:
            values = values * self.reciprocal
        return quantized_input(values, self.scale, self.number) @ self.weight.T + self.bias


class HalfProduct(nn.Module):
    """A linear layer, convolution or table in fp32, its weight in half, which is "fp16" or "bf16".

    Args:
        product: its input and product are half as well.
        bias: its bias is half as well, and a part of the product; else it is added in fp32.
    """

    def __init__(self, module: nn.Module, dtype: str, *, product: bool, bias: bool) -> None:
        super().__init__()
        self.module, self.product, self.round = module, product, rounding(dtype)
        # What else multiplies by the weight, such as a head, has it in half too.
        self.weight = nn.Parameter(self.round(module.get_parameter("weight")))
        module.register_parameter("weight", self.weight)
        added = getattr(module, "bias", None)
        self.added: torch.Tensor | None = None if bias else added
        if added is not None:
            module.register_parameter("bias", nn.Parameter(self.round(added)) if bias else None)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if self.product:
            values = self.round(self.module(self.round(values)))
        else:
            values = self.module(values)
        return values if self.added is None else values + self.added


class PlannedAttention(nn.Module):
    """Self-attention as one node: the packed projection, then the operator, in half or in fp32.

    The operator's arithmetic in half is that of `exporter.graph.attention_body`: scaled factors,
    score terms, probabilities and context are rounded; scores are summed and normalized in fp32.
    """

    def __init__(
        self,
        qkv: nn.Linear,
        reference: SelfAttention,
        relative: torch.Tensor,
        half: HalfArithmetic | None,
    ) -> None:
        super().__init__()
        self.config, self.qkv, self.queries = reference.config, qkv, None
        self.round = _exact if half is None else rounding(half.dtype)
        self.fp32_terms = () if half is None else half.fp32_terms
        positions = reference.project_positions(relative)
        self.pos_key, self.pos_query = (self.round(item) for item in positions)

    def forward(
        self, hidden: torch.Tensor, relative: torch.Tensor, slots: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """`hidden` `(B, S, E)`, `slots`, `mask` `(B, S)` -> `(B, S, H*D)`."""
        config = self.config
        packed = self.round(self.qkv(hidden))
        batch, length, _ = packed.shape
        heads, scale = config.num_attention_heads, config.attention_scale
        query, key, value = packed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        scores = self._term("content_to_content", query, scale, key)
        position, reach = torch.arange(length), len(slots) // 2
        distance = (position[:, None] - position).clamp(-reach, reach)
        index = slots[distance + reach].to(torch.int64).expand(batch, heads, length, length)
        if config.c2p:
            term = self._term("content_to_position", query, scale, self.pos_key)
            scores = scores + term.gather(-1, index)
        if config.p2c:
            term = self._term("position_to_content", key, scale, self.pos_query)
            by_key = term.gather(-1, index.transpose(-1, -2))
            scores = scores + by_key.transpose(-1, -2)
        scores = scores.masked_fill((mask == 0)[:, None, None, :], -(2.0**127))
        probabilities = self.round(torch.softmax(scores, dim=-1))
        return self.round(probabilities @ value).transpose(1, 2).reshape(batch, length, -1)

    def _term(
        self, name: str, left: torch.Tensor, scale: float, right: torch.Tensor
    ) -> torch.Tensor:
        """`(B, H, S, D)` scaled, times `(H, R, D)` or `(B, H, S, D)`, as the term is computed."""
        rounded = _exact if name in self.fp32_terms else self.round
        return rounded(rounded(left * scale) @ right.transpose(-1, -2))


def rounding(dtype: str) -> Round:
    """To a half type and back."""
    return lambda values: values.to(_HALF[dtype]).to(torch.float32)


def quantized_weight(
    weight: torch.Tensor, scale: torch.Tensor, number: NumberFormat
) -> torch.Tensor:
    """What is left of `weight` `(N, K)` at `scale` `(N, 1)`; int8 without -128."""
    return _round_trip(weight, scale, number, -number.largest, number.largest)


def stored_rows(table: torch.Tensor) -> torch.Tensor:
    """What is left of `(..., E)` in int8 with a scale for each row, rounded to nearest."""
    largest = NumberFormat.INT8.largest
    scale = _scale(table, -1)
    # In place, since a table of words is most of a model.
    return (table / scale).clamp_(-largest, largest).round_().mul_(scale)


def stored_positions(table: torch.Tensor) -> torch.Tensor:
    """What is left of `(H, R, D)` in int8, a head's channels scaled, then its rows."""
    scale = _scale(table, 1)
    return stored_rows(table / scale) * scale


def _scale(table: torch.Tensor, axis: int) -> torch.Tensor:
    """Of a step along an axis, which stays."""
    return (table.abs().amax(axis, keepdim=True) / NumberFormat.INT8.largest).clamp_min(2.0**-100)


def quantized_input(
    values: torch.Tensor, scale: torch.Tensor, number: NumberFormat
) -> torch.Tensor:
    """What QuantizeLinear and DequantizeLinear leave of `values`; ONNX's int8 begins at -128."""
    lowest = -128.0 if number.is_integer else -number.largest
    return _round_trip(values, scale, number, lowest, number.largest)


def _round_trip(
    values: torch.Tensor, scale: torch.Tensor, number: NumberFormat, lowest: float, largest: float
) -> torch.Tensor:
    scaled = (values / scale).clamp(lowest, largest)
    stored = scaled.round() if number.is_integer else scaled.to(torch.float8_e4m3fn).float()
    return stored * scale


def _exact(values: torch.Tensor) -> torch.Tensor:
    return values
