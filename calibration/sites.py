"""The linear layers of an exported graph that can be quantized, found by the names of weights.

A site is `Add(MatMul(x, <name>.weight), <name>.bias)` in the main graph, its weight `(K, N)` as it
is multiplied: `K` input features, `N` output features.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

from plugins.disentangled_attention import contract


class SiteKind(str, Enum):
    """Which of a layer's four linear layers a site is."""

    QKV = "qkv"
    ATTENTION_OUTPUT = "attention_output"
    INTERMEDIATE = "intermediate"
    OUTPUT = "output"


_PATHS = {
    "attention.self.qkv": SiteKind.QKV,
    "attention.output.dense": SiteKind.ATTENTION_OUTPUT,
    "intermediate.dense": SiteKind.INTERMEDIATE,
    "output.dense": SiteKind.OUTPUT,
}
_WEIGHT = re.compile(
    rf"((?:.*\.)?encoder\.layer\.(\d+)\.({'|'.join(map(re.escape, _PATHS))}))\.weight"
)


@dataclass(frozen=True)
class Site:
    """One linear layer that can be quantized.

    Attributes:
        name: path of the layer in the checkpoint, as in `deberta.encoder.layer.0.output.dense`.
        kind, layer: which of the four it is in the encoder layer of this index.
        activation, product: names of the values `x` `(B, S, K)` and `x @ weight` `(B, S, N)`.
        weight, bias: names of the initializers `(K, N)` and `(N,)`.
        in_features, out_features: `K`, `N`.
    """

    name: str
    kind: SiteKind
    layer: int
    activation: str
    product: str
    weight: str
    bias: str
    in_features: int
    out_features: int


def find_sites(model: ir.Model) -> tuple[Site, ...]:
    """The sites of an exported graph in the order of execution, four a layer.

    Raises:
        RuntimeError: the graph has other than four sites for each attention node, or a site of
            another form: a defect of the export.
    """
    sites = tuple(_sites(model.graph))
    layers = sum((node.domain, node.op_type) in contract.OPERATORS for node in model.graph)
    expected = {(layer, kind) for layer in range(layers) for kind in SiteKind}
    if len(sites) != len(expected) or {(site.layer, site.kind) for site in sites} != expected:
        raise RuntimeError(
            f"the graph has {len(sites)} linear layers to quantize, expected {len(expected)}: "
            f"four for each of its {layers} attention nodes"
        )
    return sites


def matmul_of(model: ir.Model, site: Site) -> ir.Node:
    """The node that multiplies by the site's weight.

    Raises:
        RuntimeError: there is none: this is another graph, or the site is already quantized.
    """
    weight = model.graph.initializers.get(site.weight)
    nodes = [] if weight is None else [usage.node for usage in weight.uses()]
    if len(nodes) != 1 or nodes[0].op_type != "MatMul":
        raise RuntimeError(f"the graph has no matrix product with {site.weight}")
    return nodes[0]


def _sites(graph: ir.Graph) -> Iterator[Site]:
    for node in graph:
        if node.op_type != "MatMul" or node.domain:
            continue
        (activation, weight), product = node.inputs, node.outputs[0]
        if activation is None or weight is None or weight.name not in graph.initializers:
            continue
        match = _WEIGHT.fullmatch(weight.name or "")
        if match is None:
            continue
        name, layer, kind = match[1], int(match[2]), _PATHS[match[3]]
        consumers = [usage.node for usage in product.uses()]
        if len(consumers) != 1 or consumers[0].op_type != "Add" or weight.const_value is None:
            raise RuntimeError(f"{name}: the product with its weight is not added to its bias")
        added = {value.name for value in consumers[0].inputs if value is not None}
        if added != {product.name, f"{name}.bias"} or len(weight.uses()) != 1:
            expected = f"expected one product with its weight, added to {name}.bias"
            raise RuntimeError(f"{name}: {expected}")
        names = activation.name or "", product.name or "", f"{name}.weight", f"{name}.bias"
        yield Site(name, kind, layer, *names, *weight.const_value.shape.numpy())
