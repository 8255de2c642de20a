"""The first and last layers of a graph: the only ones that can stay float without a conversion between integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calibration.prepare import main_nodes

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir as ir


def edge_layers(graph: ir.Graph, layers: Collection[str]) -> frozenset[str]:
    """Those of ``layers`` with no other of them before, or none behind.

    A layer amid integers that stays float costs the conversion of its input and of its output. One at an edge only
    moves a conversion that is there anyway.

    Args:
        graph: The graph.
        layers: Names of its nodes.
    """
    nodes = [*main_nodes(graph)]
    return frozenset(_with_none_before(nodes, layers) | _with_none_behind(nodes, layers))


def _with_none_before(nodes: list[ir.Node], layers: Collection[str]) -> set[str]:
    behind: set[str] = set()  # values that some layer's result is in
    found: set[str] = set()
    for node in nodes:
        reached = any(value is not None and value.name in behind for value in node.inputs)
        if node.name in layers and not reached:
            found.add(str(node.name))
        if reached or node.name in layers:
            behind |= {str(value.name) for value in node.outputs}
    return found


def _with_none_behind(nodes: list[ir.Node], layers: Collection[str]) -> set[str]:
    before: set[str] = set()  # values that some layer reads, directly or not
    found: set[str] = set()
    for node in reversed(nodes):
        reaches = any(value.name in before for value in node.outputs)
        if node.name in layers and not reaches:
            found.add(str(node.name))
        if reaches or node.name in layers:
            before |= {str(value.name) for value in node.inputs if value is not None}
    return found
