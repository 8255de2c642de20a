"""Decides how many units each group loses for a ratio, and which.

Widths: a group keeps a multiple of ``alignment`` channels, never less than ``alignment``, or its whole width: the one
nearest to what the ratio asks, the larger of two equally near. A group narrower than twice the alignment has no such
choice; for it the alignment is halved until it has: half a vector register still pays more than a ragged width.
"""

from __future__ import annotations

import fnmatch
from math import gcd
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np

from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.pruning.criteria import Scores
    from pipeline.pruning.decisions import Decisions
    from pipeline.pruning.groups import Group, PruningGraph

Scope: TypeAlias = Literal["global", "local"]

_SMALL: Final = 2


def choose_by_ratio(
    graph: PruningGraph,
    scores: Mapping[str, Scores],
    *,
    ratio: float,
    alignment: int = 1,
    protect: Sequence[str] = (),
    scope: Scope = "global",
) -> Decisions:
    """The decisions that remove a share of the units, the lowest scores first.

    Args:
        graph: The groups.
        scores: Importance of each unit, by group name. (units,) each.
        ratio: Share of units to remove, between 0 and 1: of all units together (``global``, scores divided by
            their group's mean so that groups compare) or of each group (``local``).
        alignment: Channels a width should be a multiple of; see the module's first lines.
        protect: Module paths or patterns (``stem``, ``layer1.*``, ``*.conv2``) whose outputs are never cut. A path
            stands for everything below it.
        scope: ``global`` or ``local``.

    Raises:
        InputError: Ratio or alignment out of range, a pattern matches no module, or nothing would be removed.
    """
    _check(ratio, alignment, scope)
    protected = _protected(graph, protect)
    groups = [group for group in graph.groups if group.name not in protected]
    if not groups:
        raise InputError(
            "there is nothing to prune",
            _why_nothing(graph, protected),
            "shorten prune.protect, or remove [prune] from the recipe",
        )
    wanted = _global(groups, scores, ratio) if scope == "global" else {g.name: g.size * (1 - ratio) for g in groups}
    removed = {}
    for group in groups:
        kept = _aligned(wanted[group.name], group, alignment)
        removed[group.name] = np.argsort(scores[group.name], kind="stable")[: group.size - kept]
    if not any(len(units) for units in removed.values()):
        raise InputError(
            "pruning would remove nothing",
            f"ratio {ratio} is less than one step of {alignment} channels in every one of {len(groups)} groups",
            "raise prune.ratio, or lower pruning.channel_alignment in the target's profile",
        )
    return graph.decide(removed)


def _check(ratio: float, alignment: int, scope: str) -> None:
    if not 0 < ratio < 1:
        raise InputError(
            "the pruning ratio is out of range", f"it is {ratio}", "give a ratio between 0 and 1, both excluded"
        )
    if alignment < 1:
        raise InputError(
            "the alignment is out of range", f"it is {alignment}", "give an alignment of 1 channel or more"
        )
    if scope not in get_args(Scope):
        raise InputError("there is no such pruning scope", f"it is {scope!r}", nearest(scope, get_args(Scope)))


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


def _global(groups: Sequence[Group], scores: Mapping[str, Scores], ratio: float) -> dict[str, float]:
    """Units each group keeps when the lowest share of all units goes, scores relative to their group's mean."""
    relative = np.concatenate([_relative(scores[group.name]) for group in groups])
    owner = np.repeat(np.arange(len(groups)), [group.size for group in groups])
    lowest = np.argsort(relative, kind="stable")[: round(ratio * len(relative))]
    lost = np.bincount(owner[lowest], minlength=len(groups))
    return {group.name: float(group.size - lost[i]) for i, group in enumerate(groups)}


def _relative(scores: Scores) -> Scores:
    mean = float(scores.mean())
    return scores / mean if mean > 0 else scores


def _aligned(wanted: float, group: Group, alignment: int) -> int:
    step = alignment // gcd(alignment, group.channels_per_unit)
    while step > 1 and group.size < _SMALL * step:
        step = (step + 1) // 2
    choices = [*range(step, group.size, step), group.size]
    nearest_width: int = min(choices, key=lambda kept: (abs(kept - wanted), -kept))
    return nearest_width
