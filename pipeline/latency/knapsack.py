"""The widths that keep the most importance within a latency: a multiple-choice knapsack, exact where it can be.

Groups that meet in one layer do not cost the sum of what each costs alone. So a set of groups is chosen that touches
every such meeting (a vertex cover: the residual streams of a ResNet). With their widths given, what the others cost
adds up, and a dynamic program over the budget gives the best widths of those exactly (Sinha and Zoltners, The
Multiple-Choice Knapsack Problem, Operations Research 27, 1979; by dynamic programming, Kellerer et al., Knapsack
Problems, 2004, chapter 11). All widths of the cover are tried where there are few; else they climb, one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.pruning.criteria import Scores
    from pipeline.pruning.widths import Widths

UNITS: Final = 4096
"""Steps that a budget is counted in: costs are rounded up to whole steps."""

_MOST_TRIED: Final = 512
_MOST_SWEEPS: Final = 8
_NEVER: Final = -np.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What to choose from.

    Attributes:
        choices: Widths that each group may have, ascending.
        values: Importance kept at each of them.
        meetings: Sets of groups whose costs depend on each other.
        cost: What a net of given widths costs, all groups named.
    """

    choices: Mapping[str, Sequence[int]]
    values: Mapping[str, Sequence[float]]
    meetings: Sequence[frozenset[str]]
    cost: Callable[[Widths], float]

    def value(self, widths: Widths) -> float:
        """Importance kept at these widths."""
        return sum(self.values[name][self.choices[name].index(width)] for name, width in widths.items())


def values_of(choices: Mapping[str, Sequence[int]], scores: Mapping[str, Scores]) -> dict[str, tuple[float, ...]]:
    """Importance that each group keeps at each of its widths: that of its best units."""
    found = {}
    for name, widths in choices.items():
        best = np.concatenate([[0.0], np.cumsum(np.sort(scores[name])[::-1])])
        found[name] = tuple(float(best[width]) for width in widths)
    return found


def solve(problem: Problem, budget: float) -> dict[str, int] | None:
    """The widths of the highest value whose cost fits the budget; None where the narrowest net does not fit."""
    least = {name: widths[0] for name, widths in problem.choices.items()}
    if problem.cost(least) > budget:
        return None
    cover = vertex_cover(problem.meetings)
    if prod(len(problem.choices[name]) for name in cover) <= _MOST_TRIED:
        tried = [dict(zip(cover, widths, strict=True)) for widths in product(*(problem.choices[n] for n in cover))]
        found = [widths for fixed in tried if (widths := _others(problem, fixed, budget)) is not None]
        return max(found, key=problem.value, default=least)
    return _climb(problem, cover, budget, least)


def vertex_cover(meetings: Sequence[frozenset[str]]) -> tuple[str, ...]:
    """Few groups without which no two are left in any meeting: always the one that meets most others comes next."""
    left = [set(meeting) for meeting in meetings if len(meeting) > 1]
    cover: list[str] = []
    while left:
        names = sorted({name for meeting in left for name in meeting})
        most = max(names, key=lambda name: len({n for meeting in left if name in meeting for n in meeting}))
        cover.append(most)
        left = [rest for meeting in left if len(rest := meeting - {most}) > 1]
    return tuple(cover)


def _climb(problem: Problem, cover: Sequence[str], budget: float, least: dict[str, int]) -> dict[str, int]:
    """From several starts, change the width of one group of the cover at a time while that helps."""
    best = least
    for start in _starts(problem, cover):
        fixed, here = dict(start), _others(problem, start, budget)
        for _ in range(_MOST_SWEEPS):
            before = here
            for name in cover:
                for width in problem.choices[name]:
                    found = _others(problem, {**fixed, name: width}, budget)
                    if found is not None and (here is None or problem.value(found) > problem.value(here)):
                        here, fixed = found, {**fixed, name: width}
            if here is before:
                break
        if here is not None and problem.value(here) > problem.value(best):
            best = here
    return best


def _starts(problem: Problem, cover: Sequence[str]) -> list[dict[str, int]]:
    """The cover narrowest, half way, and whole."""
    return [
        {name: problem.choices[name][round(share * (len(problem.choices[name]) - 1))] for name in cover}
        for share in (0.0, 0.5, 1.0)
    ]


def _others(problem: Problem, fixed: Mapping[str, int], budget: float) -> dict[str, int] | None:
    """The best widths with those of some groups given; exact where no two of the others meet."""
    least = {name: widths[0] for name, widths in problem.choices.items()} | dict(fixed)
    base = problem.cost(least)
    if base > budget:
        return None
    free = [name for name in problem.choices if name not in fixed]
    unit = max(budget - base, 1e-12) / UNITS
    costs = []
    for name in free:
        more = np.array([problem.cost({**least, name: width}) - base for width in problem.choices[name]])
        costs.append(np.ceil(np.maximum(more, 0.0) / unit - 1e-9).astype(np.int64))
    table = _table([np.array(problem.values[name]) for name in free], costs)
    for units in range(UNITS, -1, -1):  # where others meet after all, a net may cost more than the sum
        picks = _picks(table, costs, units)
        widths = {**least, **{name: problem.choices[name][pick] for name, pick in zip(free, picks, strict=True)}}
        if problem.cost(widths) <= budget:
            return widths
    return least


def _table(values: Sequence[NDArray[np.float64]], costs: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """For each group and budget, which choice is best when the groups before it have what is left."""
    best = np.zeros(UNITS + 1)
    chosen = []
    for value, cost in zip(values, costs, strict=True):
        tried = np.full((len(value), UNITS + 1), _NEVER)
        for index, (worth, price) in enumerate(zip(value.tolist(), cost.tolist(), strict=True)):
            if price <= UNITS:
                tried[index, price:] = best[: UNITS + 1 - price] + worth
        chosen.append(tried.argmax(axis=0))
        best = tried.max(axis=0)
    return chosen


def _picks(table: Sequence[NDArray[np.int64]], costs: Sequence[NDArray[np.int64]], units: int) -> list[int]:
    """The choice of each group in the best solution for a budget."""
    picks = []
    for chosen, cost in zip(reversed(table), reversed(costs), strict=True):
        pick = int(chosen[units])
        picks.append(pick)
        units -= int(cost[pick])
    return picks[::-1]
