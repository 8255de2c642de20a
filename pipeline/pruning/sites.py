"""Where the units of a group appear among the activations: the tensors that their consumers read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.pruning.dims import is_concrete, labelled, size_of
from pipeline.pruning.rules import propagate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import fx

    from pipeline.pruning.dims import Dim
    from pipeline.pruning.groups import Group
    from pipeline.pruning.labels import Ids
    from pipeline.pruning.propagate import Propagation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Site:
    """One axis of an activation that a group's units occupy.

    Attributes:
        node: The operator that gives the activation.
        axis: The axis.
        units: Unit of each index of the axis, -1 where it is none of the group's. (axis size,) int64.
    """

    node: fx.Node
    axis: int
    units: Ids


def find_sites(gm: fx.GraphModule, groups: Sequence[Group]) -> dict[str, tuple[Site, ...]]:
    """For each group the activations that carry its units into an operator with a weight that reads them.

    A group without any such reader (queries and keys of attention, say) has the outputs of what makes it instead.
    """
    p = propagate(gm)
    found: dict[str, tuple[Site, ...]] = {}
    for group in groups:
        roots = unit_roots(p, group)
        sites = list(_of(p, gm, group, roots, "consumer", inputs=True))
        found[group.name] = tuple(sites or _of(p, gm, group, roots, "producer", inputs=False))
    return found


def unit_roots(p: Propagation, group: Group) -> Ids:
    """The root label of each unit, read off the first of its axes that tells them apart."""
    for member in group.members:
        here = member.units >= 0
        for ids in labelled(p.parameters[member.parameter][member.axis]):
            if len(ids) != len(member.units):
                continue
            for part in p.labels.parts(ids).T:
                roots = np.zeros(group.size, dtype=np.int64)
                roots[member.units[here]] = part[here]
                if (roots[member.units[here]] == part[here]).all() and len(np.unique(roots)) == group.size:
                    return roots
    raise AssertionError(f"the units of {group.name} are nowhere told apart")


def _of(p: Propagation, gm: fx.GraphModule, group: Group, roots: Ids, role: str, *, inputs: bool) -> Iterator[Site]:
    names = {member.parameter for member in group.members if role in member.roles}
    seen: set[tuple[fx.Node, int]] = set()
    for operator in _operators_with(p, gm, names):
        for node in operator.all_input_nodes if inputs else [operator]:
            if p.is_parameter_view(node) or not isinstance(p.layouts.get(node), tuple):
                continue
            for axis, dim in enumerate(p.layout(node)):
                units = unit_numbers(p, dim, roots)
                if units is not None and (units >= 0).any() and (node, axis) not in seen:
                    seen.add((node, axis))
                    yield Site(node=node, axis=axis, units=units)


def _operators_with(p: Propagation, gm: fx.GraphModule, names: set[str]) -> Iterator[fx.Node]:
    """The operators that a parameter of these names goes into, through whatever only rearranges it."""
    pending = [node for node in gm.graph.nodes if node.op == "get_attr" and str(node.target) in names]
    while pending:
        for user in pending.pop(0).users:
            if p.is_parameter_view(user):
                pending.append(user)
            else:
                yield user


def unit_numbers(p: Propagation, dim: Dim, roots: Ids) -> Ids | None:
    """Unit of each index of a dimension, -1 for none; None where its size is not known."""
    if not all(is_concrete(factor) for factor in dim):
        return None
    sizes = [int(size_of(factor)) for factor in dim]
    units = np.full(sizes, -1, dtype=np.int64)
    order = np.argsort(roots)
    for axis, factor in enumerate(dim):
        if not isinstance(factor, np.ndarray):
            continue
        own = np.full(len(factor), -1, dtype=np.int64)
        for part in p.labels.parts(factor).T:
            place = order[np.minimum(np.searchsorted(roots[order], part), len(roots) - 1)]
            own = np.where(roots[place] == part, place, own)
        shape = [1] * len(sizes)
        shape[axis] = len(own)
        units = np.maximum(units, own.reshape(shape))
    return units.reshape(-1)


def unit_sums(values: torch.Tensor, axis: int, units: Ids, size: int) -> torch.Tensor:
    """The sum of ``values`` over everything but the batch (axis 0) and the unit. (batch, units)."""
    rows = values.movedim(axis, 1).reshape(values.shape[0], values.shape[axis], -1).sum(dim=2, dtype=torch.float64)
    here = torch.from_numpy(np.flatnonzero(units >= 0))
    total = torch.zeros((len(rows), size), dtype=torch.float64)
    return total.index_add_(1, torch.from_numpy(units)[here], rows[:, here])
