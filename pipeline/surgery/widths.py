"""Widths of named modules: the channels that matter least go, with all that lives and dies with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from pipeline.graph.patterns import matches
from pipeline.pruning import Decisions, all_criteria, find_groups
from targets.errors import Fault, nearest
from targets.words import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import fx

    from pipeline.pruning import Group, Member, PruningGraph

Removed: TypeAlias = "dict[str, NDArray[np.int64]]"  # unit numbers by group
_Parts: TypeAlias = "list[tuple[Group, Member]]"  # the groups on one axis


def state_widths(
    gm: fx.GraphModule, widths: Mapping[str, int]
) -> tuple[Decisions | None, list[dict[str, Any]], list[Fault]]:
    """What to keep so that named modules give so many channels.

    Which channels go: those of the smallest L2 norm of the weights that make them (`pipeline.pruning.L2Norm`).

    Args:
        gm: An exported graph.
        widths: Channels to keep, by module path or glob; a later name does not change what an earlier one said.

    Returns:
        The decisions (None where nothing goes), a row for each module (``module``, ``before``, ``after``), and what is
        wrong with names or numbers.
    """
    graph = find_groups(gm)
    axes = _produced(graph)
    removed: Removed = {}
    said: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for pattern, width in widths.items():
        where = f"surgery.widths.{pattern}"
        named = matches(pattern, axes)
        if not named:
            faults.append(_unknown(where, pattern, gm, axes))
        for module in named:
            fault = _narrow(gm, axes[module], module, width, removed, said)
            if fault is not None:
                faults.append(Fault(where=where, what=fault[0], fix=fault[1]))
            rows.append({"module": module, "before": _size(axes[module]), "after": width})
    decisions = graph.decide(removed) if any(len(units) for units in removed.values()) else None
    return decisions, rows, faults


def _produced(graph: PruningGraph) -> dict[str, _Parts]:
    """For each module whose outputs can be cut, the groups on the axis that makes them."""
    found: dict[str, _Parts] = {}
    for group in graph.groups:
        for member in group.producers:
            found.setdefault(member.parameter.rpartition(".")[0] or member.parameter, []).append((group, member))
    return {
        module: [(group, member) for group, member in parts if member.parameter == parts[0][1].parameter]
        for module, parts in found.items()
    }


def _size(parts: _Parts) -> int:
    return len(parts[0][1].units)


def _narrow(
    gm: fx.GraphModule, parts: _Parts, module: str, width: int, removed: Removed, said: dict[str, str]
) -> tuple[str, str] | None:
    """Notes the units that go for one module; what is wrong and how to mend it where that cannot be."""
    size = _size(parts)
    if width > size:
        return (
            f"{module!r} has {counted(size, 'channel')}, fewer than {width}",
            f"write {size} or less: surgery widens nothing",
        )
    decided = [(group, member) for group, member in parts if group.name in removed]
    gone = sum(int(np.isin(member.units, removed[group.name]).sum()) for group, member in decided)
    free = [(group, member) for group, member in parts if group.name not in removed]
    cannot = f"{module!r} cannot have {width} channels"
    if not free:
        tied = said[parts[0][0].name]
        fix = f"give {module!r} and {tied!r} the same width"
        why = f"{cannot}: they are tied to {tied!r}, which leaves {size - gone}"
        return None if size - gone == width else (why, fix)
    each = {_channels_per_unit(group, member) for group, member in free}
    step, going = max(each), size - gone - width
    if len(each) > 1 or going % step:
        return f"{cannot}: they go {step} at a time (grouped layers, heads)", f"write {width + going % step}"
    least = size - gone - sum((group.size - 1) * step for group, _ in free)
    if not least <= width <= size - gone:
        return f"{cannot}: between {least} and {size - gone} can be reached", f"write {least} or more"
    _remove(gm, free, going // step, removed)
    said |= {group.name: module for group, _ in free}
    return None


def _channels_per_unit(group: Group, member: Member) -> int:
    return int(np.count_nonzero(member.units >= 0)) // group.size


def _remove(gm: fx.GraphModule, parts: _Parts, count: int, removed: Removed) -> None:
    """The ``count`` units of the lowest score, compared within their groups' means; one of each group stays."""
    candidates: list[tuple[float, int, int]] = []
    every = all_criteria()["l2"].score(gm, [group for group, _ in parts])
    for index, (group, _) in enumerate(parts):
        scores = every[group.name]
        relative = scores / scores.mean() if scores.mean() > 0 else scores
        order = np.argsort(relative, kind="stable")[: group.size - 1]
        candidates += [(float(relative[unit]), index, int(unit)) for unit in order]
    chosen = sorted(candidates)[:count]
    for index, (group, _) in enumerate(parts):
        removed[group.name] = np.array([unit for _, i, unit in chosen if i == index], dtype=np.int64)


def _unknown(where: str, pattern: str, gm: fx.GraphModule, axes: Mapping[str, object]) -> Fault:
    owners = {name.rpartition(".")[0] for name, _ in gm.named_parameters(remove_duplicate=False)}
    if matches(pattern, owners):
        what = f"the outputs of {pattern!r} cannot be cut: they are the model's own, or meet an operator that needs all"
        return Fault(where=where, what=what, fix=f"state the width of another module: {', '.join(sorted(axes)[:8])}")
    return Fault(where=where, what=f"no module with channels is called {pattern!r}", fix=nearest(pattern, axes))
