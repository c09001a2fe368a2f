"""The linear layers of an exported graph that can be quantized, found by the names of weights.

A site is `Add(MatMul(x, <name>.weight), <name>.bias)` in the main graph, its weight `(K, N)` as it
is multiplied: `K` input features, `N` output features.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
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
_NAME = re.compile(r"(?:.*\.)?encoder\.layer\.(\d+)\.(" + "|".join(map(re.escape, _PATHS)) + ")")


@dataclass(frozen=True)
class Site:
    """One linear layer that can be quantized.

    Attributes:
        name: path of the layer in the checkpoint, as in `deberta.encoder.layer.0.output.dense`.
        kind: which of the layer's four it is.
        layer: index of the encoder layer.
        activation: name of the value that it reads, `(B, S, K)`.
        product: name of the value `x @ weight`, `(B, S, N)`.
        weight: name of the initializer `(K, N)`.
        bias: name of the initializer `(N,)`.
        in_features: `K`.
        out_features: `N`.
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
    layers = sum(
        node.domain == contract.DOMAIN and node.op_type == contract.OP_TYPE for node in model.graph
    )
    expected = {(layer, kind) for layer in range(layers) for kind in SiteKind}
    if len(sites) != len(expected) or {(site.layer, site.kind) for site in sites} != expected:
        raise RuntimeError(
            f"the graph has {len(sites)} linear layers to quantize, expected {len(expected)}: "
            f"four for each of its {layers} attention nodes"
        )
    return sites


def by_layer(sites: Iterable[Site]) -> dict[int, tuple[Site, ...]]:
    """The sites of each encoder layer, in order."""
    layers: dict[int, tuple[Site, ...]] = {}
    for site in sites:
        layers[site.layer] = (*layers.get(site.layer, ()), site)
    return layers


def matmul_of(model: ir.Model, site: Site) -> ir.Node:
    """The node that multiplies by the site's weight.

    Raises:
        RuntimeError: the graph has no such node: it is not the one that the site was found in, or
            the site is already quantized.
    """
    weight = model.graph.initializers.get(site.weight)
    nodes = [] if weight is None else [usage.node for usage in weight.uses()]
    if len(nodes) != 1 or nodes[0].op_type != "MatMul":
        raise RuntimeError(f"the graph has no matrix product with {site.weight}")
    return nodes[0]


def _sites(graph: ir.Graph) -> Iterator[Site]:
    for node in graph:
        if node.op_type != "MatMul" or node.domain or len(node.inputs) != 2:
            continue
        activation, weight = node.inputs
        if activation is None or weight is None or weight.name not in graph.initializers:
            continue
        name = (weight.name or "").removesuffix(".weight")
        match = _NAME.fullmatch(name)
        if match is not None and name != weight.name:
            yield _site(node, name, int(match[1]), _PATHS[match[2]])


def _site(node: ir.Node, name: str, layer: int, kind: SiteKind) -> Site:
    activation, weight = node.inputs
    product = node.outputs[0]
    assert activation is not None and weight is not None
    consumers = [usage.node for usage in product.uses()]
    if len(consumers) != 1 or consumers[0].op_type != "Add" or weight.const_value is None:
        raise RuntimeError(f"{name}: the product with its weight is not added to its bias")
    others = [value.name for value in consumers[0].inputs if value is not None and value != product]
    if others != [f"{name}.bias"] or len(weight.uses()) != 1:
        raise RuntimeError(f"{name}: expected one product with its weight, added to {name}.bias")
    rows, columns = weight.const_value.shape.numpy()
    return Site(
        name=name,
        kind=kind,
        layer=layer,
        activation=activation.name or "",
        product=product.name or "",
        weight=weight.name or "",
        bias=f"{name}.bias",
        in_features=rows,
        out_features=columns,
    )
