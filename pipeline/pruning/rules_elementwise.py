"""Rules of operators that work index by index: activations, arithmetic with broadcasting, copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import torch
from torch import fx
from torch._ops import OpOverload

from pipeline.graph.operators import arguments, operator_name
from pipeline.pruning.dims import Dim, Layout, Size, ids_of, is_labelled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.pruning.propagate import Propagation, Rule, Value

Operand: TypeAlias = "tuple[Layout, tuple[Size, ...]]"


def elementwise(p: Propagation, node: fx.Node) -> Value:
    """Aligns the inputs from the right and unites what meets; an axis of size 1 is stretched and decides nothing."""
    operands = [(p.layout(a), p.shape(a)) for a in node.all_input_nodes if p.is_tensor(a)]
    return broadcast(p, node, operands, p.shape(node))


def broadcast(p: Propagation, node: fx.Node, operands: Sequence[Operand], shape: tuple[Size, ...]) -> Layout:
    """The layout of tensors, given as layout and shape, that an operator takes index by index."""
    return tuple(_meeting(p, node, operands, shape, axis) for axis in range(-len(shape), 0))


def is_elementwise(node: fx.Node) -> bool:
    """Whether torch itself tags the operator, or its form that is not in place, as pointwise."""
    if not isinstance(node.target, OpOverload):
        return False
    if torch.Tag.pointwise in node.target.tags:
        return True
    packet = getattr(torch.ops.aten, operator_name(node), None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )


def same(p: Propagation, node: fx.Node) -> Value:
    """The output has the labels of the first input."""
    return p.layout(node.args[0])


def prelu(p: Propagation, node: fx.Node) -> Value:
    """One slope a channel (axis 1), or one for all."""
    x, weight = p.layout(node.args[0]), p.layout(node.args[1])
    if len(ids_of(weight[0])) == 1 or len(x) < 2:  # noqa: PLR2004  (axis 1 is the channel)
        return x
    return (x[0], p.merge(node, x[1], weight[0]), *x[2:])


def glu(p: Propagation, node: fx.Node) -> Value:
    """One half gates the other, index by index."""
    x, axis = p.layout(node.args[0]), arguments(node)["dim"] % len(p.layout(node.args[0]))
    if not is_labelled(x[axis]):
        return (*x[:axis], (p.shape(node)[axis],), *x[axis + 1 :])
    ids = ids_of(x[axis])
    half = len(ids) // 2
    p.unite(ids[:half], ids[half:])
    return (*x[:axis], (ids[:half],), *x[axis + 1 :])


def _meeting(p: Propagation, node: fx.Node, operands: Sequence[Operand], shape: tuple[Size, ...], axis: int) -> Dim:
    result: Dim | None = None
    for layout, sizes in operands:
        if len(layout) < -axis:
            continue
        dim = layout[axis]
        if _is_one(sizes[axis]) and not _is_one(shape[axis]):
            p.whole(node, [dim], "is stretched over another tensor")
        else:
            result = dim if result is None else p.merge(node, result, dim)
    return (shape[axis],) if result is None else result


def _is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(
        (
            "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "contiguous", "clone",
            "detach", "alias", "to", "_to_copy", "lift_fresh_copy", "zeros_like", "ones_like", "full_like",
            "rand_like", "randn_like", "empty_like", "fill", "zero", "type_as", "bernoulli", "log_sigmoid",
        ),
        same,
    ),
    **dict.fromkeys(("copy", "hardswish"), elementwise),
    "prelu": prelu,
    "glu": glu,
}  # fmt: skip
