"""Decides how many units each group keeps: for a ratio, or until a cost (MACs, parameters, bytes) fits a limit.

Widths are those of `pipeline.pruning.widths`: of the two nearest to what is asked, the larger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import numpy as np

from pipeline.pruning.criteria import Normalization, normalized
from pipeline.pruning.widths import Widths, importance_kept, prunable_groups, remove_lowest, width_choices
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.pruning.criteria import Scores
    from pipeline.pruning.decisions import Decisions
    from pipeline.pruning.groups import Group, PruningGraph

Scope: TypeAlias = Literal["global", "local"]

_HALVINGS: Final = 16  # of the ratio, until nothing changes any more


def choose_by_ratio(
    graph: PruningGraph,
    scores: Mapping[str, Scores],
    *,
    ratio: float,
    alignment: int = 1,
    protect: Sequence[str] = (),
    scope: Scope = "global",
    normalize: Normalization = "mean",
) -> Decisions:
    """The decisions that remove a share of the units, the lowest scores first.

    Args:
        graph: The groups.
        scores: Importance of each unit, by group name. (units,) each.
        ratio: Share of units to remove, between 0 and 1: of all units together (``global``) or of each group
            (``local``).
        alignment: Channels a width should be a multiple of.
        protect: Module paths or patterns (``stem``, ``layer1.*``, ``*.conv2``) whose outputs are never cut. A path
            stands for everything below it.
        scope: ``global`` or ``local``.
        normalize: Figure of its group that each score is divided by, so that groups compare.

    Raises:
        InputError: Ratio or alignment out of range, a pattern matches no module, or nothing would be removed.
    """
    groups = prunable_groups(graph, protect)
    compared = normalized(scores, normalize)
    return remove_lowest(
        graph, scores, widths_for_ratio(groups, compared, ratio=ratio, alignment=alignment, scope=scope)
    )


def widths_for_ratio(
    groups: Sequence[Group], scores: Mapping[str, Scores], *, ratio: float, alignment: int, scope: Scope
) -> dict[str, int]:
    """Units that each group keeps when a share of them is removed; see `choose_by_ratio`.

    Raises:
        InputError: Ratio, alignment or scope out of range, or nothing would be removed.
    """
    if not 0 < ratio < 1:
        raise InputError(
            "the pruning ratio is out of range", f"it is {ratio}", "give a ratio between 0 and 1, both excluded"
        )
    if scope not in get_args(Scope):
        raise InputError("there is no such pruning scope", f"it is {scope!r}", nearest(scope, get_args(Scope)))
    kept = _widths(groups, scores, ratio, alignment, scope)
    if all(kept[group.name] == group.size for group in groups):
        raise InputError(
            "pruning would remove nothing",
            f"ratio {ratio} is less than one step of {alignment} channels in every one of {len(groups)} groups",
            "raise prune.ratio, or lower pruning.channel_alignment in the target's profile",
        )
    return kept


def widths_to_fit(
    groups: Sequence[Group],
    scores: Mapping[str, Scores],
    *,
    cost: Callable[[Widths], float],
    limit: float,
    what: str,
    alignment: int,
    scope: Scope,
) -> dict[str, int]:
    """Units that each group keeps when no more is removed, at one ratio, than makes the cost fit.

    Args:
        groups: What may be cut.
        scores: Importance of each unit.
        cost: What a net of these widths costs; grows with every width.
        limit: What it may cost at most.
        what: The cost's name and unit for people, such as ``multiply-accumulates``.
        alignment: Channels a width should be a multiple of.
        scope: Whether all groups lose the same share, or the lowest units of all groups together go.

    Raises:
        InputError: The limit is met without removing anything, or cannot be met: says the least that can be reached,
            and how much importance would be left.
    """
    whole = {group.name: group.size for group in groups}
    if cost(whole) <= limit:
        raise InputError(
            "pruning would remove nothing",
            f"the net has {cost(whole):,.6g} {what} as it is, and {limit:,.6g} are allowed",
            "lower the target, or remove [prune] from the recipe",
        )
    check_reachable(groups, scores, cost=cost, limit=limit, what=what, alignment=alignment)
    low, high = 0.0, 1.0  # at `high` the cost fits
    best = least_widths(groups, alignment)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = _widths(groups, scores, middle, alignment, scope)
        if cost(found) <= limit:
            high, best = middle, found
        else:
            low = middle
    return best


def least_widths(groups: Sequence[Group], alignment: int) -> dict[str, int]:
    """The smallest width that each group may have."""
    return {group.name: width_choices(group, alignment)[0] for group in groups}


def check_reachable(
    groups: Sequence[Group],
    scores: Mapping[str, Scores],
    *,
    cost: Callable[[Widths], float],
    limit: float,
    what: str,
    alignment: int,
) -> None:
    """Refuses a limit below what the narrowest net costs.

    Raises:
        InputError: Says that least cost, and how much importance would be left at it.
    """
    least = least_widths(groups, alignment)
    reachable = cost(least)
    if reachable > limit:
        left = importance_kept(scores, least)
        raise InputError(
            "the pruning target cannot be reached",
            f"{limit:,.6g} {what} are asked for; with every prunable group as narrow as it may be, "
            f"{reachable:,.6g} are left, at {left:.0%} of the importance (expect a large loss of accuracy)",
            f"ask for at least {reachable:,.6g}, shorten prune.protect, or lower pruning.channel_alignment in the "
            "target's profile",
        )


def _widths(
    groups: Sequence[Group], scores: Mapping[str, Scores], ratio: float, alignment: int, scope: Scope
) -> dict[str, int]:
    wanted = _global(groups, scores, ratio) if scope == "global" else {g.name: g.size * (1 - ratio) for g in groups}
    return {group.name: _nearest_width(wanted[group.name], group, alignment) for group in groups}


def _global(groups: Sequence[Group], scores: Mapping[str, Scores], ratio: float) -> dict[str, float]:
    """Units each group keeps when the lowest share of all units goes."""
    every = np.concatenate([scores[group.name] for group in groups])
    owner = np.repeat(np.arange(len(groups)), [group.size for group in groups])
    lowest = np.argsort(every, kind="stable")[: round(ratio * len(every))]
    lost = np.bincount(owner[lowest], minlength=len(groups))
    return {group.name: float(group.size - lost[i]) for i, group in enumerate(groups)}


def _nearest_width(wanted: float, group: Group, alignment: int) -> int:
    return min(width_choices(group, alignment), key=lambda kept: (abs(kept - wanted), -kept))
