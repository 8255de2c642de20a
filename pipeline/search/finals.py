"""Candidates screened by shorter training: what they can be expected to reach, and which is trained in full next."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pipeline.search.candidates import Engine, Tried, best, cost, excesses_of

if TYPE_CHECKING:
    from pipeline.recipe import BudgetSection
    from pipeline.recipe.searching import Objective, SearchSection

_TRAINING: Final = frozenset({"data", "train", "finetune", "prune", "distill"})

Confirmed = Mapping[int, Mapping[str, Any]]
"""What full runs have said, by trial."""


def is_shortened(section: SearchSection) -> bool:
    """Whether candidates are trained less while they are tried: then a full run is dear, and comes last."""
    return any(key.split(".")[0] in _TRAINING for key in section.screening)


def regained_share(tried: Sequence[Tried], confirmed: Confirmed, prior: float) -> float:
    """Share of the accuracy lost in screening that full training gives back: the median of the finals so far.

    Args:
        tried: With the figures of screening.
        confirmed: Finals.
        prior: What is expected before any final.
    """
    shares = []
    for one in tried:
        full = confirmed.get(one.number, {}).get("engine")
        if full is not None and one.engine.accuracy_drop > 0:
            shares.append(min(1.0, max(0.0, 1 - full["accuracy_drop"] / one.engine.accuracy_drop)))
    return statistics.median(shares) if shares else prior


def judged(tried: Sequence[Tried], confirmed: Confirmed, budget: BudgetSection, regain: float) -> tuple[Tried, ...]:
    """Finals by what they reached, others by what they are expected to reach."""
    found = []
    for one in tried:
        full = confirmed.get(one.number, {}).get("engine")
        if full is None:
            found.append(replace(one, excesses=excesses_of(one.engine, budget, regain=regain)))
        else:
            engine = Engine(**full)
            found.append(replace(one, engine=engine, excesses=excesses_of(engine, budget)))
    return tuple(found)


def next_final(candidates: Sequence[Tried], confirmed: Confirmed, objective: Objective, finals: int) -> Tried | None:
    """The candidate to train in full next; None when enough were, or nothing that is left can win.

    Ceilings come before the floor: training changes accuracy, not latency or size.

    Args:
        candidates: From `judged`.
        confirmed: Finals so far.
        objective: What decides between candidates that meet the budget.
        finals: At most so many.
    """
    if len(confirmed) >= finals:
        return None
    met = [one for one in candidates if confirmed.get(one.number, {}).get("met_budget")]
    left = [one for one in candidates if one.number not in confirmed]
    nearest = best(left, objective, ceilings_first=True)
    if nearest is None or not met:
        return nearest
    better = min(cost(one.engine, objective) for one in met)
    return nearest if nearest.feasible and cost(nearest.engine, objective) < better else None


def finalist(candidates: Sequence[Tried], confirmed: Confirmed, objective: Objective) -> Tried | None:
    """The best of the finals; before any, the candidate that is expected to be."""
    known = [one for one in candidates if confirmed.get(one.number, {}).get("engine") is not None]
    met = [one for one in known if confirmed[one.number]["met_budget"]]
    if known:
        return best(met or known, objective)
    lost = {number for number, seen in confirmed.items() if seen["shipped"] is None}
    return best([one for one in candidates if one.number not in lost], objective, ceilings_first=True)
