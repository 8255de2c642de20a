"""What one call of a module is in a graph: its operators, the tensor that enters and the one that leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.depth.skip import shape_of
from pipeline.graph.addresses import calls

if TYPE_CHECKING:
    from torch import fx


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """One call of a module.

    Attributes:
        nodes: Its operators.
        entry: The one tensor that enters in the shape of what leaves; None where there is none, or more than one.
        leaving: The one tensor that leaves; None where there is none, or more than one.
        why_not: Why it cannot be skipped; empty when it can.
    """

    nodes: frozenset[fx.Node]
    entry: fx.Node | None
    leaving: fx.Node | None
    why_not: str


def find_region(gm: fx.GraphModule, call: str) -> Region | None:
    """The operators within a call, by its name (``blocks.1``, ``blocks.1@1``); None where it has none."""
    inside = [node for node in gm.graph.nodes if node.op == "call_function" and call in calls(node)]
    if not inside:
        return None
    nodes = frozenset(inside)
    leaving = [node for node in inside if any(user not in nodes for user in node.users) and not _is_size(node)]
    entering = dict.fromkeys(
        source
        for node in inside
        for source in node.all_input_nodes
        if source not in nodes and source.op != "get_attr" and isinstance(source.meta.get("val"), Tensor)
    )
    if len(leaving) != 1 or not shape_of(leaving[0]):
        return Region(nodes=nodes, entry=None, leaving=None, why_not=f"it gives {len(leaving)} tensors, not one")
    alike = [node for node in entering if shape_of(node) == shape_of(leaving[0])]
    if len(alike) != 1:
        taken = ", ".join(_readable(node) for node in entering) or "nothing"
        why = f"it takes {taken} and gives {_readable(leaving[0])}: {_of_alike(len(alike))}"
        return Region(nodes=nodes, entry=None, leaving=leaving[0], why_not=why)
    return Region(nodes=nodes, entry=alike[0], leaving=leaving[0], why_not="")


def _is_size(node: fx.Node) -> bool:
    """Sizes with the batch in them are computed once and read everywhere."""
    return isinstance(node.meta.get("val"), int | torch.SymInt)


def _of_alike(count: int) -> str:
    return "no tensor passes in one shape" if count == 0 else "more than one tensor could pass in its place"


def _readable(node: fx.Node) -> str:
    """``(N, 64, 8, 8)``."""
    shape = node.meta["val"].shape
    return f"({', '.join('N' if not isinstance(size, int) else str(size) for size in shape)})"
