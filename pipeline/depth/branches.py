"""Finds residual branches in a graph: additions of a tensor and of something computed from it, in the same shape.

He et al., Deep Residual Learning for Image Recognition, CVPR 2016: a block computes x + f(x). Without f it still
computes x, whatever the net around it expects; so such a branch can go without any other change. No name is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

from pipeline.depth.skip import shape_of
from pipeline.graph.operators import arguments, operator_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Branch:
    """One addition ``x + f(x)``.

    Attributes:
        entry: What gives x.
        addition: What gives the sum.
        inside: The operators of f: all on a way from x to the addition.
    """

    entry: fx.Node
    addition: fx.Node
    inside: frozenset[fx.Node]


def find_branches(gm: fx.GraphModule) -> tuple[Branch, ...]:
    """Every residual branch, in graph order; one may hold others."""
    nodes = list(gm.graph.nodes)
    position = {node: index for index, node in enumerate(nodes)}
    ancestors = _ancestors(nodes, position)
    found = []
    for node in nodes:
        for entry, other in _sides(node):
            if ancestors[other] >> position[entry] & 1:
                on_the_way = (
                    inner
                    for inner in nodes[position[entry] + 1 : position[node]]
                    if ancestors[inner] >> position[entry] & 1 and ancestors[node] >> position[inner] & 1
                )
                found.append(Branch(entry=entry, addition=node, inside=frozenset(on_the_way)))
    return tuple(found)


def _ancestors(nodes: list[fx.Node], position: Mapping[fx.Node, int]) -> dict[fx.Node, int]:
    """For each node the nodes it is computed from, as bits by position."""
    found: dict[fx.Node, int] = {}
    for node in nodes:
        bits = 0
        for source in node.all_input_nodes:
            bits |= found[source] | 1 << position[source]
        found[node] = bits
    return found


def _sides(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """The operands of an addition in both orders, where the first passes unchanged and has the shape of the sum."""
    if operator_name(node) != "add":
        return
    given: Mapping[str, Any] = arguments(node)
    first, second, factor = given.get("self"), given.get("other"), given.get("alpha")
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return
    for entry, other, plain in ((first, second, True), (second, first, factor == 1)):
        if plain and shape_of(entry) == shape_of(node) != "":
            yield entry, other
