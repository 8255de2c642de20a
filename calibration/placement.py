"""Decides which tensors of a graph are quantised, which share a scale and what stays float; the rules are data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from calibration.masks import infinite_tensors
from calibration.placed import Placement
from calibration.prepare import main_nodes
from calibration.rules_inputs import place_inputs
from calibration.rules_operators import place_operators
from calibration.rules_reasons import MASKED
from calibration.rules_weights import bias_row, weight_axis
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Collection

    import onnx_ir as ir

    from targets.scheme import QuantScheme

__all__ = ["Placement", "bias_row", "place", "weight_axis"]

_STYLES: Final = {"operators": place_operators, "inputs": place_inputs}


def place(graph: ir.Graph, scheme: QuantScheme, *, float_nodes: Collection[str] = ()) -> Placement:
    """The placement of a prepared float graph under a scheme.

    Args:
        graph: What `calibration.prepare.prepare` made.
        scheme: The dialect.
        float_nodes: Nodes that stay float on request (mixed precision).

    Raises:
        InputError: One of ``float_nodes`` is no node of the graph.
    """
    names = {str(node.name) for node in main_nodes(graph)}
    for name in float_nodes:
        if name not in names:
            raise InputError(
                f"no node is called {name!r}", "only nodes of the model can be kept in float", nearest(name, names)
            )
    infinite = infinite_tensors(graph)
    masked = frozenset(str(node.name) for node in main_nodes(graph) if _touches(node, infinite))
    found = _STYLES[scheme.style](graph, scheme, frozenset(float_nodes) | masked)
    reasons = {name: MASKED if name in masked else reason for name, reason in found.reasons.items()}
    return replace(found, reasons=reasons)


def _touches(node: ir.Node, infinite: frozenset[str]) -> bool:
    return any(value is not None and value.name in infinite for value in (*node.inputs, *node.outputs))
