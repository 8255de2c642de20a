"""Finds the units of a graph that can be removed, in groups whose units are interchangeable.

A unit is a set of parameter indices that live or die together (a simple root of the union-find). A group is the set of
units that occur in exactly the same parameter axes, equally often: the channels of one convolution, or of all
convolutions summed by a chain of residual blocks. In a network with padded shortcuts, the channels that exist from the
first stage on are one group and those that the second stage adds are another. So every non-empty group leaves every
axis non-empty. Where an axis is the product of two dimensions, as heads and head dimensions are, it belongs to a group
of either, and an index is kept when its unit is kept in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from pipeline.pruning.decisions import Decisions, Kept, Statistics
from pipeline.pruning.dims import is_labelled, labelled
from pipeline.pruning.labels import Flags, Ids
from pipeline.pruning.propagate import Kind
from pipeline.pruning.rules import propagate
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import fx

    from pipeline.pruning.criteria import Criterion, Evidence, Scores
    from pipeline.pruning.frozen import Frozen
    from pipeline.pruning.propagate import Propagation

Role: TypeAlias = Literal["producer", "consumer", "carrier"]

_NO_UNIT: Final = -1
_FEWEST: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """One axis of a parameter or buffer that a group's units occupy.

    Attributes:
        parameter: Its name in the graph.
        axis: The axis.
        roles: Whether it makes the unit, reads it, or both (tied weights); a carrier (bias, batch norm) does neither.
        units: Unit of each index of the axis, -1 where the index belongs to no unit of the group. (axis size,) int64.
            The same axis can be a member twice, where its indices are pairs of units.
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
        channels_per_unit: Indices a unit takes on the axis that produces it (more than one in grouped convolutions,
            and where the axis is the product of two dimensions).
        members: Every parameter axis the units occupy, in graph order.
        kind: ``head`` and ``head_dim`` in attention, ``hidden`` in recurrent layers, else ``channel``.
    """

    name: str
    size: int
    channels_per_unit: int
    members: tuple[Member, ...]
    kind: Kind = "channel"

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
        statistics: What was asked of operators that take a statistic over channels: see `find_groups`.
    """

    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]
    statistics: Statistics = "whole"

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __getitem__(self, name: str) -> Group:
        """The group of a name.

        Raises:
            InputError: There is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise _unknown_group(name, self.groups)

    def score(self, gm: fx.GraphModule, criterion: Criterion, evidence: Evidence | None = None) -> dict[str, Scores]:
        """The importance of every unit, by group name: ``(units,)`` each; see `Criterion.score`."""
        return criterion.score(gm, self.groups, evidence)

    def decide(self, removed: Mapping[str, NDArray[np.integer]]) -> Decisions:
        """The indices every parameter keeps when units are removed; ``removed`` maps group name to unit numbers.

        Raises:
            InputError: There is no such group or unit, or nothing would be left of a group.
        """
        kept: dict[tuple[str, int], NDArray[np.bool_]] = {}
        for name, units in removed.items():
            group = self[name]
            gone = _gone(group, units)
            for member in group.members:
                here = kept.setdefault((member.parameter, member.axis), np.ones(len(member.units), dtype=bool))
                here &= ~gone[member.units]
        axes: dict[str, dict[int, Kept]] = {}
        for (name, axis), mask in sorted(kept.items()):
            if not mask.all():
                axes.setdefault(name, {})[axis] = Kept(size=len(mask), kept=tuple(np.flatnonzero(mask).tolist()))
        return Decisions(parameters=axes, statistics=self.statistics)


def _gone(group: Group, units: NDArray[np.integer]) -> NDArray[np.bool_]:
    """A flag a unit, and a last one for "no unit", which is -1."""
    numbers = np.asarray(units, dtype=np.int64)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < group.size:
        raise InputError(
            f"group {group.name!r} has no such unit",
            f"asked for {int(numbers.min())} to {int(numbers.max())}, and it has {group.size}, from 0 on",
            "give numbers below the group's size",
        )
    gone = np.zeros(group.size + 1, dtype=bool)
    gone[numbers] = True
    if gone[:-1].all():
        raise InputError(
            f"nothing would be left of group {group.name!r}", f"all {group.size} units go", "keep at least one"
        )
    return gone


def _unknown_group(name: str, groups: Sequence[Group]) -> InputError:
    return InputError("there is no such group", f"it is {name!r}", nearest(name, [group.name for group in groups]))


def find_groups(gm: fx.GraphModule, *, statistics: Statistics = "whole") -> PruningGraph:
    """The prunable groups of an exported graph (see `pipeline.graph.trace`); changes nothing in it.

    Args:
        gm: The graph.
        statistics: What becomes of dimensions over which an operator takes a statistic (layer norm, group norm, RMS
            norm, softmax, mean, maximum). ``whole`` leaves them as they are. ``leave_out`` lets them be pruned: the
            small network then equals the large one with the removed units left out of the statistic, and not the one
            that sees zeros there.
    """
    p = propagate(gm, statistics=statistics)
    shapes = {
        name: tuple(1 if not is_labelled(d) else len(labelled(d)[0]) for d in dims)
        for name, dims in p.parameters.items()
    }
    return PruningGraph(groups=_groups(p), frozen=tuple(p.frozen), shapes=shapes, statistics=statistics)


def _groups(p: Propagation) -> tuple[Group, ...]:
    axes = _labelled_axes(p)
    units = np.unique(p.labels.parts(p.produced()))
    units = units[~p.labels.stays(units)]
    by_signature: dict[bytes, list[int]] = {}
    for unit, signature in zip(units.tolist(), _signatures(axes, units, p.labels.families(units)), strict=True):
        by_signature.setdefault(signature, []).append(unit)
    produced, consumed = np.zeros(len(p.labels), dtype=bool), np.zeros(len(p.labels), dtype=bool)
    produced[p.produced()], consumed[p.consumed()] = True, True
    kinds = _kinds(p)
    groups: list[Group] = []
    names: dict[str, int] = {}
    order, occupied = _first_axes(axes), _axes_of(axes, units)
    for members_units in sorted(by_signature.values(), key=lambda own: (order[own[0]], own[0])):
        if len(members_units) < _FEWEST:
            continue
        own = np.array(members_units, dtype=np.int64)
        members = [
            Member(
                parameter=axis.parameter,
                axis=axis.axis,
                roles=_roles(axis.ids[here], produced, consumed),
                units=_unit_numbers(own, axis.roots),
            )
            for axis in occupied[own[0]]
            if (here := _among(own, axis.roots)).any()
        ]
        groups.append(_group(members, own, kinds, names))
    return tuple(groups)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Axis:
    """One part of the labels of a parameter's axis: their raw ids, and the simple root each index has there."""

    parameter: str
    axis: int
    ids: Ids
    roots: Ids


def _labelled_axes(p: Propagation) -> list[_Axis]:
    found = []
    for name, dims in p.parameters.items():
        for axis, dim in enumerate(dims):
            for ids in labelled(dim):
                parts = p.labels.parts(ids)
                found += [
                    _Axis(parameter=name, axis=axis, ids=ids, roots=parts[:, part]) for part in range(parts.shape[1])
                ]
    return found


def _first_axes(axes: list[_Axis]) -> dict[int, int]:
    """Number of the first axis that each root occurs in."""
    first: dict[int, int] = {}
    for number, axis in enumerate(axes):
        for root in np.unique(axis.roots).tolist():
            first.setdefault(root, number)
    return first


def _axes_of(axes: list[_Axis], units: Ids) -> dict[int, list[_Axis]]:
    """The axes that each unit occurs in, in order."""
    found: dict[int, list[_Axis]] = {unit: [] for unit in units.tolist()}
    for axis in axes:
        for root in np.unique(axis.roots).tolist():
            if root in found:
                found[root].append(axis)
    return found


def _among(units: Ids, roots: Ids) -> Flags:
    """Whether each root is one of the units, which are sorted."""
    position = np.minimum(np.searchsorted(units, roots), len(units) - 1)
    return np.asarray(units[position] == roots)


def _signatures(axes: list[_Axis], units: Ids, families: Ids) -> list[bytes]:
    """For each unit: which axes it occurs in and how often, and the side of the grid it is, as bytes to compare."""
    if not len(units):
        return []
    rows = [
        np.stack([np.searchsorted(units, own), np.full(len(own), number)])
        for number, axis in enumerate(axes)
        if len(own := axis.roots[_among(units, axis.roots)])
    ]
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *rows], axis=1)
    distinct, counts = np.unique(pairs, axis=1, return_counts=True)
    ends = np.searchsorted(distinct[0], np.arange(len(units)), side="right")
    what = np.stack([distinct[1], counts], axis=1)
    starts = [0, *ends[:-1].tolist()]
    return [
        family.tobytes() + what[start:end].tobytes() for family, start, end in zip(families, starts, ends, strict=True)
    ]


def _kinds(p: Propagation) -> dict[int, Kind]:
    """Kind of each root that has one of its own."""
    return {int(root): kind for kind, ids in p.kinds for root in np.unique(p.labels.parts(ids))}


def _roles(ids: Ids, produced: Flags, consumed: Flags) -> frozenset[Role]:
    roles: set[Role] = set()
    if produced[ids].any():
        roles.add("producer")
    if consumed[ids].any():
        roles.add("consumer")
    return frozenset(roles or {"carrier"})


def _unit_numbers(units: Ids, roots: Ids) -> Ids:
    """Position of each root among the units of a group, or -1."""
    return np.where(_among(units, roots), np.searchsorted(units, roots), _NO_UNIT)


def _group(members: list[Member], units: Ids, kinds: Mapping[int, Kind], names: dict[str, int]) -> Group:
    producer = next(member for member in members if "producer" in member.roles)
    base = producer.parameter.rpartition(".")[0] or producer.parameter
    names[base] = names.get(base, 0) + 1
    return Group(
        name=base if names[base] == 1 else f"{base}#{names[base]}",
        kind=kinds.get(int(units[0]), "channel"),
        size=len(units),
        channels_per_unit=int(np.count_nonzero(producer.units != _NO_UNIT)) // len(units),
        members=tuple(members),
    )
