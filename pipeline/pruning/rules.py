"""The registry of operator rules, and what happens to an operator without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import Tensor, fx

from pipeline.pruning import (
    rules_elementwise,
    rules_index,
    rules_linear,
    rules_parts,
    rules_product,
    rules_recurrent,
    rules_shape,
    rules_statistic,
)
from pipeline.pruning.dims import plain
from pipeline.pruning.propagate import Propagation, Rule, Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.pruning.decisions import Statistics

RULES: Final[Mapping[str, Rule]] = {
    **rules_elementwise.RULES,
    **rules_linear.RULES,
    **rules_parts.RULES,
    **rules_index.RULES,
    **rules_product.RULES,
    **rules_recurrent.RULES,
    **rules_shape.RULES,
    **rules_statistic.RULES,
}
"""Rule by operator name without overload and without the mark of the in-place form; a new rule is one entry here."""


def propagate(gm: fx.GraphModule, *, statistics: Statistics = "whole") -> Propagation:
    """The labels of every tensor of a graph; ``statistics``: see `pipeline.pruning.groups.find_groups`."""
    return Propagation(gm, RULES, fallback, statistics=statistics)


def fallback(p: Propagation, node: fx.Node) -> Value:
    """Element-wise where torch says so; else everything the operator touches stays whole, and is named."""
    value = node.meta.get("val")
    if isinstance(value, Tensor) and rules_elementwise.is_elementwise(node):
        return rules_elementwise.elementwise(p, node)
    outputs = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(output, Tensor) for output in outputs):
        p.whole(node, p.input_dims(node), "the operator has no rule", always=True)
    if isinstance(value, (list, tuple)):
        return [plain(output.shape) if isinstance(output, Tensor) else () for output in value]
    return plain(value.shape) if isinstance(value, Tensor) else None
