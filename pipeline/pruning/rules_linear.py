"""Rules of layers: convolutions, linear layers, embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from torch import fx

from pipeline.graph.operators import arguments
from pipeline.pruning.dims import Dim, Layout, Length, ids_of, is_concrete, is_labelled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.pruning.propagate import Propagation, Rule, Value


def convolution(p: Propagation, node: fx.Node) -> Value:
    """Weight (O, I / groups, *kernel): produces its axis 0, consumes its axis 1.

    With groups, unit j is channel j of every group, on both sides, so that the groups stay equal. A depthwise
    convolution carries its input's channels.
    """
    a = arguments(node)
    x, weight, groups = p.layout(a["input"]), p.layout(a["weight"]), int(a["groups"])
    if not _plain_channels(p, node, x, weight) or not _direct(p, node, a["weight"], [x[1], *weight]):
        return _unlabelled(p, node)
    for dim in weight[2:]:
        p.fix(dim)
    if groups > 1 and len(ids_of(weight[1])) == 1:
        _depthwise(p, node, x[1], weight[0])
    else:
        _contract_in_groups(p, x[1], weight[1], groups)
        _repeat_over_groups(p, weight[0], groups)
    p.produce(weight[0])
    _bias(p, a["bias"], weight[0])
    return _spatial_after(p, node, x, weight[0])


def transposed_convolution(p: Propagation, node: fx.Node) -> Value:
    """Weight (I, O / groups, *kernel): consumes its axis 0, produces its axis 1 (once a group)."""
    a = arguments(node)
    x, weight, groups = p.layout(a["input"]), p.layout(a["weight"]), int(a["groups"])
    if not _plain_channels(p, node, x, weight) or not _direct(p, node, a["weight"], [x[1], *weight]):
        return _unlabelled(p, node)
    for dim in weight[2:]:
        p.fix(dim)
    p.consume(x[1], weight[0])
    _repeat_over_groups(p, weight[0], groups)
    p.produce(weight[1])
    out: Dim = p.join(node, (groups, *weight[1]))
    _bias(p, a["bias"], out)
    return _spatial_after(p, node, x, out)


def linear(p: Propagation, node: fx.Node) -> Value:
    """Weight (O, I): produces its axis 0, consumes its axis 1."""
    a = arguments(node)
    x, weight = p.layout(a["input"]), p.layout(a["weight"])
    if len(x[-1]) != 1 or not is_concrete(x[-1][0]) or not _direct(p, node, a["weight"], [x[-1], *weight]):
        return _unlabelled(p, node)
    p.consume(x[-1], weight[1])
    p.produce(weight[0])
    _bias(p, a["bias"], weight[0])
    return (*x[:-1], weight[0])


def addmm(p: Propagation, node: fx.Node) -> Value:
    """``bias + x @ weight`` with weight (I, O)."""
    a = arguments(node)
    x, weight = p.layout(a["mat1"]), p.layout(a["mat2"])
    if not _direct(p, node, a["mat2"], [x[1], *weight]):
        return _unlabelled(p, node)
    p.consume(x[1], weight[0])
    p.produce(weight[1])
    bias = p.layout(a["self"])
    if len(ids_of(bias[-1])) > 1:
        p.unite(ids_of(bias[-1]), ids_of(weight[1]))
    return (x[0], weight[1])


def embedding(p: Propagation, node: fx.Node) -> Value:
    """Weight (V, E): the rows are looked up and stay, the columns are produced."""
    a = arguments(node)
    indices, weight = p.layout(a["indices"]), p.layout(a["weight"])
    p.whole(node, indices, "looks rows up by them")
    p.fix(weight[0])  # its rows are looked up by number
    p.produce(weight[1])
    return (*indices, weight[1])


def _depthwise(p: Propagation, node: fx.Node, x: Dim, weight: Dim) -> None:
    channels = ids_of(x)
    p.unite(ids_of(weight), np.repeat(channels, len(ids_of(weight)) // len(channels)))
    if is_labelled(x):
        p.rewrite(node, {"groups": Length(ids=channels)})


def _contract_in_groups(p: Propagation, x: Dim, weight: Dim, groups: int) -> None:
    channels = ids_of(x).reshape(groups, -1)
    p.unite(channels, channels[:1])
    p.consume((channels[0],), weight)


def _repeat_over_groups(p: Propagation, weight: Dim, groups: int) -> None:
    if groups > 1:
        filters = ids_of(weight).reshape(groups, -1)
        p.unite(filters, filters[:1])


def _bias(p: Propagation, bias: object, out: Dim) -> None:
    if isinstance(bias, fx.Node):
        p.unite(ids_of(p.layout(bias)[0]), ids_of(out))


def _plain_channels(p: Propagation, node: fx.Node, x: Layout, weight: Layout) -> bool:
    """Whether x is (N, C, *spatial) with concrete channels; labelled spatial axes are kept whole."""
    if len(x) != len(weight) or len(x[1]) != 1 or not is_concrete(x[1][0]):
        return False
    p.positions(node, [x[0], *x[2:]], "slides over it")
    return True


def _direct(p: Propagation, node: fx.Node, weight: object, dims: list[Dim]) -> bool:
    """Whether zero in the parameter means zero in the weight; else what the weight touches stays whole."""
    if p.is_parameter_view(weight):
        return True
    p.whole(node, dims, "its weight is computed, not a parameter", always=True)
    return False


def _spatial_after(p: Propagation, node: fx.Node, x: Layout, channels: Dim) -> Layout:
    return (x[0], channels, *((size,) for size in p.shape(node)[2:]))


def _unlabelled(p: Propagation, node: fx.Node) -> Layout:
    p.whole(node, p.input_dims(node), "mixes its inputs in a way that has no rule", always=True)
    return tuple((size,) for size in p.shape(node))


RULES: Final[Mapping[str, Rule]] = {
    **{f"conv{n}d": convolution for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": transposed_convolution for n in (1, 2, 3)},
    "linear": linear,
    "addmm": addmm,
    "embedding": embedding,
}
