"""Rules of products: matrix products, einsum, attention; of an activation with a weight, or of two activations.

All of them sum over the dimensions that the result has not. Where a weight takes part, its zeros make the sum blind to
a unit; where two activations meet, as queries and keys do, one of them is masked in the reference.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np
from torch import fx

from pipeline.graph.operators import arguments
from pipeline.pruning.dims import Dim, Layout, ids_of, is_concrete, is_labelled, size_of
from pipeline.pruning.rules_elementwise import broadcast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.pruning.dims import Size
    from pipeline.pruning.propagate import Propagation, Rule, Value

_MATRIX: Final = 2


def contract(
    p: Propagation, node: fx.Node, operands: Sequence[tuple[fx.Node, Sequence[str]]], out: Sequence[str]
) -> Layout:
    """The layout of a sum of products.

    Args:
        p: The propagation.
        node: The operator.
        operands: Each tensor, with a name for each of its axes; equal names are the same dimension.
        out: The names of the result's axes, in order; the others are summed over.
    """
    found: dict[str, list[tuple[fx.Node, int]]] = {}
    for source, names in operands:
        for axis, name in enumerate(names):
            found.setdefault(name, []).append((source, axis))
    for name, places in found.items():
        if name not in out:
            _sum_over(p, node, places)
    layout = tuple(_kept(p, node, found[name], size) for name, size in zip(out, p.shape(node), strict=True))
    if not any(p.is_parameter_view(source) for source, _ in operands):
        _name_heads(p, operands, out, found)
    return layout


def matrix_product(p: Propagation, node: fx.Node) -> Value:
    """(..., n, k) times (..., k, m); either side may be a vector."""
    left, right = list(arguments(node).values())[:2]
    names_left, names_right, out = _matrix_names(len(p.layout(left)), len(p.layout(right)))
    return contract(p, node, [(left, names_left), (right, names_right)], out)


def added_product(p: Propagation, node: fx.Node) -> Value:
    """``input + a @ b``: addmm and baddbmm."""
    added, left, right = list(arguments(node).values())[:3]
    names_left, names_right, out = _matrix_names(len(p.layout(left)), len(p.layout(right)))
    product = contract(p, node, [(left, names_left), (right, names_right)], out)
    shape = p.shape(node)
    return broadcast(p, node, [(product, shape), (p.layout(added), p.shape(added))], shape)


def einsum(p: Propagation, node: fx.Node) -> Value:
    """What the equation says; an ellipsis or a repeated letter is not followed."""
    a = arguments(node)
    equation, tensors = str(a["equation"]).replace(" ", ""), list(a["tensors"])
    inputs, arrow, out = equation.partition("->")
    terms = inputs.split(",")
    if not arrow:
        letters = "".join(terms)
        out = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    if "." in equation or any(len(set(term)) < len(term) for term in terms):
        p.whole(node, p.input_dims(node), "has an equation that is not followed", always=True)
        return tuple((size,) for size in p.shape(node))
    return contract(p, node, list(zip(tensors, terms, strict=True)), out)


def attention(p: Propagation, node: fx.Node) -> Value:
    """Query (..., L, E), key (..., S, E), value (..., S, V): heads are a dimension before, E and V can both be cut.

    The operator scales by 1 / sqrt(E) of what it sees: the scale is pinned to the E of the large network.
    """
    a = arguments(node)
    query, key, value = a["query"], a["key"], a["value"]
    q, k, v = p.layout(query), p.layout(key), p.layout(value)
    depth = p.merge(node, q[-1], k[-1])
    p.read(node, query, {len(q) - 1: depth})
    if is_labelled(depth) and a["scale"] is None:
        p.rewrite(node, {"scale": 1 / math.sqrt(len(ids_of(depth)))})
    keys = p.merge(node, k[-2], v[-2])
    p.whole(node, [keys], "takes a softmax over it")
    if a["enable_gqa"]:
        k, v = _shared_by_queries(p, node, q, k), _shared_by_queries(p, node, q, v)
    shape = p.shape(node)
    leading = [(x[:-2], tuple(_sizes(x[:-2]))) for x in (q, k, v)]
    out = (*broadcast(p, node, leading, shape[:-2]), q[-2], v[-1])
    if isinstance(a["attn_mask"], fx.Node):
        scores = (*out[:-1], keys)
        mask = (p.layout(a["attn_mask"]), p.shape(a["attn_mask"]))
        broadcast(p, node, [(scores, tuple(_sizes(scores))), mask], (*shape[:-1], p.shape(key)[-2]))
    for dim in out[1:-2]:
        p.call("head", dim)
    p.call("head_dim", depth)
    p.call("head_dim", v[-1])
    return out


def _sizes(layout: Layout) -> list[Size]:
    """Size of each dimension; of a symbolic product, its first factor tells it from 1."""
    return [
        size_of(dim[0]) if len(dim) == 1 else max(size_of(factor) for factor in dim if is_concrete(factor))
        for dim in layout
    ]


def _shared_by_queries(p: Propagation, node: fx.Node, query: Layout, other: Layout) -> Layout:
    """Grouped-query attention: each head of keys and values serves several of the queries, and goes with them."""
    if not is_labelled(other[-3]) or len(other[-3]) != 1:
        p.whole(node, [query[-3], other[-3]], "shares the heads of keys among them")
        return (*other[:-3], query[-3], *other[-2:])
    heads = ids_of(other[-3])
    repeats = len(ids_of(query[-3])) // len(heads)
    return (*other[:-3], (np.repeat(heads, repeats),), *other[-2:])


def _matrix_names(left: int, right: int) -> tuple[list[str], list[str], list[str]]:
    """Names of the axes of a product, batch axes aligned from the right."""
    batch = [f"batch{axis}" for axis in range(max(left, right) - _MATRIX, 0, -1)]
    rows, columns = (["row"] if left > 1 else []), (["column"] if right > 1 else [])
    names_left = [*batch[len(batch) - max(0, left - _MATRIX) :], *rows, "inner"]
    names_right = [*batch[len(batch) - max(0, right - _MATRIX) :], "inner", *columns]
    return names_left, names_right, [*batch, *rows, *columns]


def _sum_over(p: Propagation, node: fx.Node, places: Sequence[tuple[fx.Node, int]]) -> None:
    dims = [p.layout(source)[axis] for source, axis in places]
    if not any(is_labelled(dim) for dim in dims):
        return
    sizes = {size_of(dim[0]) if len(dim) == 1 and is_concrete(dim[0]) else 0 for dim in dims}
    if len(sizes) > 1 or 0 in sizes:
        p.whole(node, dims, "sums over it together with the batch")
        return
    for dim in dims[1:]:
        p.unite(ids_of(dims[0]), ids_of(dim))
    weights = [dim for (source, _), dim in zip(places, dims, strict=True) if p.is_parameter_view(source)]
    if weights:
        p.consume(dims[0], weights[0])
        return
    source, axis = places[0]
    p.read(node, source, {axis: dims[0]})


def _kept(p: Propagation, node: fx.Node, places: Sequence[tuple[fx.Node, int]], size: Size) -> Dim:
    """A dimension of the result; a weight that alone has it makes its units."""
    if len(places) == 1:
        source, axis = places[0]
        dim = p.layout(source)[axis]
        if p.is_parameter_view(source):
            p.produce(dim)
        return dim
    operands = [((p.layout(source)[axis],), (p.shape(source)[axis],)) for source, axis in places]
    (dim,) = broadcast(p, node, operands, (size,))
    return dim


def _name_heads(
    p: Propagation,
    operands: Sequence[tuple[fx.Node, Sequence[str]]],
    out: Sequence[str],
    found: Mapping[str, Sequence[tuple[fx.Node, int]]],
) -> None:
    """Products of activations with a dimension in common beside the batch: that of the heads."""
    shared = [name for name in out if len(found[name]) > 1]
    heads = [p.layout(source)[axis] for name in shared for source, axis in found[name][:1]]
    if len(operands) != _MATRIX or not any(is_labelled(dim) for dim in heads):
        return
    for dim in heads:
        p.call("head", dim)
    for name in found:
        if name not in shared:
            for source, axis in found[name]:
                p.call("head_dim", p.layout(source)[axis])


RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(("matmul", "mm", "bmm", "dot", "mv"), matrix_product),
    **dict.fromkeys(("addmm", "baddbmm"), added_product),
    "einsum": einsum,
    "scaled_dot_product_attention": attention,
}
