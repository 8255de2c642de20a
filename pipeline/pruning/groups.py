"""Finds the units of a graph that can be removed, in groups whose units are interchangeable.

A unit is a set of parameter indices that live or die together (a root of the union-find). A group is the set of units
that occur in exactly the same parameter axes, equally often: the channels of one convolution, or of all convolutions
summed by a chain of residual blocks. In a network with padded shortcuts, the channels that exist from the first stage
on are one group and those that the second stage adds are another. So every non-empty group leaves every axis non-empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from pipeline.pruning.decisions import Decisions, Kept
from pipeline.pruning.dims import is_labelled, labelled
from pipeline.pruning.labels import WHOLE, Ids
from pipeline.pruning.rules import propagate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import fx

    from pipeline.pruning.propagate import Frozen, Propagation

Role: TypeAlias = Literal["producer", "consumer", "carrier"]

_NO_UNIT: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """One axis of a parameter or buffer that a group's units occupy.

    Attributes:
        parameter: Its name in the graph.
        axis: The axis.
        roles: Whether it makes the unit, reads it, or both (tied weights); a carrier (bias, batch norm) does neither.
        units: Unit of each index of the axis, -1 where the index belongs to no unit of the group. (axis size,) int64.
    """

    parameter: str
    axis: int
    roles: frozenset[Role]
    units: Ids


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Interchangeable units.

    Attributes:
        name: Path of the first module that produces them; ``#2`` and so on where a module's axis has several groups.
        size: Number of units.
        channels_per_unit: Indices a unit takes on the axis that produces it (more than one in grouped convolutions).
        members: Every parameter axis the units occupy, in graph order.
    """

    name: str
    size: int
    channels_per_unit: int
    members: tuple[Member, ...]

    @property
    def producers(self) -> tuple[Member, ...]:
        """The members whose weights make the units."""
        return tuple(member for member in self.members if "producer" in member.roles)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PruningGraph:
    """What can be removed from a graph, and what cannot.

    Attributes:
        groups: The prunable groups, in graph order, two units or more each.
        frozen: The dimensions an operator keeps whole.
        shapes: Shape of every parameter and buffer, by name.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def decide(self, removed: Mapping[str, NDArray[np.integer]]) -> Decisions:
        """The indices every parameter keeps when units are removed; ``removed`` maps group name to unit numbers."""
        kept: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for group in self.groups:
            if group.name not in removed:
                continue
            gone = np.zeros(group.size + 1, dtype=bool)  # the last entry answers for "no unit", which is -1
            gone[np.asarray(removed[group.name], dtype=np.int64)] = True
            gone[_NO_UNIT] = False
            for member in group.members:
                here = kept.setdefault((member.parameter, member.axis), np.ones(len(member.units), dtype=bool))
                here &= ~gone[member.units]
        axes: dict[str, dict[int, Kept]] = {}
        for (name, axis), mask in sorted(kept.items()):
            if not mask.all():
                axes.setdefault(name, {})[axis] = Kept(size=len(mask), kept=tuple(np.flatnonzero(mask).tolist()))
        return Decisions(parameters=axes)


def find_groups(gm: fx.GraphModule) -> PruningGraph:
    """The prunable groups of an exported graph (see `pipeline.graph.trace`); changes nothing in it."""
    p = propagate(gm)
    shapes = {
        name: tuple(1 if not is_labelled(d) else len(labelled(d)[0]) for d in dims)
        for name, dims in p.parameters.items()
    }
    return PruningGraph(groups=_groups(p), frozen=tuple(p.frozen), shapes=shapes)


def _groups(p: Propagation) -> tuple[Group, ...]:
    axes = [
        (name, axis, labelled(dim)[0])
        for name, dims in p.parameters.items()
        for axis, dim in enumerate(dims)
        if is_labelled(dim)
    ]
    roots = [p.labels.find(ids) for _, _, ids in axes]
    units = np.setdiff1d(p.labels.find(p.produced()), [WHOLE])
    by_signature: dict[bytes, list[int]] = {}
    for unit, signature in zip(units.tolist(), _signatures(roots, units), strict=True):
        by_signature.setdefault(signature, []).append(unit)
    produced, consumed = p.produced(), p.consumed()
    groups: list[Group] = []
    names: dict[str, int] = {}
    for members_units in by_signature.values():
        own = np.array(members_units, dtype=np.int64)
        members = [
            Member(
                parameter=name,
                axis=axis,
                roles=_roles(ids[here], produced, consumed),
                units=_unit_numbers(own, axis_roots),
            )
            for (name, axis, ids), axis_roots in zip(axes, roots, strict=True)
            if (here := np.isin(axis_roots, own)).any()
        ]
        if len(own) > 1:
            groups.append(_group(members, len(own), names))
    return tuple(groups)


def _signatures(roots: list[Ids], units: Ids) -> list[bytes]:
    """For each unit: which axes it occurs in and how often, as bytes to compare."""
    if not len(units):
        return []
    rows = [np.stack([np.searchsorted(units, r), np.full(len(r), axis)]) for axis, r in enumerate(_only(roots, units))]
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *rows], axis=1)
    distinct, counts = np.unique(pairs, axis=1, return_counts=True)
    ends = np.searchsorted(distinct[0], np.arange(len(units)), side="right")
    what = np.stack([distinct[1], counts], axis=1)
    return [what[start:end].tobytes() for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]


def _only(roots: list[Ids], units: Ids) -> list[Ids]:
    return [r[np.isin(r, units)] for r in roots]


def _roles(ids: Ids, produced: Ids, consumed: Ids) -> frozenset[Role]:
    roles: set[Role] = set()
    if np.isin(ids, produced).any():
        roles.add("producer")
    if np.isin(ids, consumed).any():
        roles.add("consumer")
    return frozenset(roles or {"carrier"})


def _unit_numbers(units: Ids, roots: Ids) -> Ids:
    """Position of each root among the units of a group, or -1."""
    position = np.minimum(np.searchsorted(units, roots), len(units) - 1)
    return np.where(units[position] == roots, position, _NO_UNIT)


def _group(members: list[Member], size: int, names: dict[str, int]) -> Group:
    producer = next(member for member in members if "producer" in member.roles)
    base = producer.parameter.rpartition(".")[0] or producer.parameter
    names[base] = names.get(base, 0) + 1
    return Group(
        name=base if names[base] == 1 else f"{base}#{names[base]}",
        size=size,
        channels_per_unit=int(np.count_nonzero(producer.units != _NO_UNIT)) // size,
        members=tuple(members),
    )
