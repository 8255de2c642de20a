"""Which widths a group may have, and which groups may be cut at all.

A group keeps a multiple of the target's alignment, never less than one alignment, or its whole width. A group narrower
than twice the alignment has no such choice; for it the alignment is halved until it has: half a vector register still
pays more than a ragged width.
"""

from __future__ import annotations

import fnmatch
from math import gcd
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.pruning.criteria import Scores
    from pipeline.pruning.decisions import Decisions
    from pipeline.pruning.groups import Group, PruningGraph

Widths: TypeAlias = "Mapping[str, int]"
"""Units kept, by group name."""

_SMALL: Final = 2


def width_choices(group: Group, alignment: int) -> tuple[int, ...]:
    """The numbers of units a group may keep, ascending; the last is its whole size.

    Raises:
        InputError: The group has a single unit, or the alignment is out of range.
    """
    if alignment < 1:
        raise InputError(
            "the alignment is out of range", f"it is {alignment}", "give an alignment of 1 channel or more"
        )
    if group.size < _SMALL:
        raise InputError(
            f"group {group.name!r} cannot be pruned",
            f"it has {group.size} unit, and a group keeps at least one",
            f"protect {group.name!r}",
        )
    step = alignment // gcd(alignment, group.channels_per_unit)
    while step > 1 and group.size < _SMALL * step:
        step = (step + 1) // 2
    return (*range(step, group.size, step), group.size)


def prunable_groups(graph: PruningGraph, protect: Sequence[str] = ()) -> list[Group]:
    """The groups that no protected module produces or carries.

    Args:
        graph: The groups.
        protect: Module paths or patterns (``stem``, ``layer1.*``, ``*.conv2``); a path stands for all below it.

    Raises:
        InputError: A pattern matches no module, or nothing is left to prune.
    """
    protected = _protected(graph, protect)
    groups = [group for group in graph.groups if group.name not in protected]
    if not groups:
        raise InputError(
            "there is nothing to prune",
            _why_nothing(graph, protected),
            "shorten prune.protect, or remove [prune] from the recipe",
        )
    return groups


def remove_lowest(graph: PruningGraph, scores: Mapping[str, Scores], kept: Widths) -> Decisions:
    """The decisions that leave each group the units of highest score, as many as ``kept`` says; others stay whole."""
    removed = {
        group.name: np.argsort(scores[group.name], kind="stable")[: group.size - kept[group.name]]
        for group in graph.groups
        if group.name in kept
    }
    return graph.decide(removed)


def importance_kept(scores: Mapping[str, Scores], kept: Widths) -> float:
    """The share of all importance that is left when each group keeps its best units."""
    total = sum(float(scores[name].sum()) for name in kept)
    left = sum(float(np.sort(scores[name])[len(scores[name]) - width :].sum()) for name, width in kept.items())
    return left / total if total > 0 else 1.0


def _protected(graph: PruningGraph, patterns: Sequence[str]) -> set[str]:
    """Names of the groups that a protected module produces or carries."""
    owners = {name: name.rpartition(".")[0] or name for name in graph.shapes}
    modules = {parent for owner in owners.values() for parent in _with_parents(owner)}
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(module, pattern) for module in modules):
            raise InputError(
                "a protected module is not in the model", f"nothing is called {pattern!r}", nearest(pattern, modules)
            )
    return {
        group.name
        for group in graph.groups
        for member in group.members
        if member.roles != {"consumer"}
        and any(fnmatch.fnmatchcase(m, p) for p in patterns for m in _with_parents(owners[member.parameter]))
    }


def _with_parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _why_nothing(graph: PruningGraph, protected: set[str]) -> str:
    if protected:
        return f"all {len(graph.groups)} groups are protected"
    reasons = ", ".join(dict.fromkeys(f"{f.operator} {f.reason}" for f in graph.frozen))
    return f"no channels can be removed{': ' + reasons if reasons else ''}"
