"""What a candidate misses, which one is best, which ones nothing beats."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe import BudgetSection
from pipeline.search.candidates import Engine, Tried, best, best_engine, cost, excesses_of, front

OBJECTIVES = ("latency", "accuracy", "size")


def engine(**known: object) -> Engine:
    usual: dict[str, Any] = {"name": "int8", "accuracy": 0.9, "accuracy_drop": 0.0, "latency_ms": 1.0}
    usual |= {"latency_ratio": 0.5, "size_bytes": 1 << 20, "memory_bytes": 1 << 20}
    return Engine(**{**usual, **known})


def tried(number: int, budget: BudgetSection, **known: object) -> Tried:
    made = engine(**known)
    return Tried(number=number, point={"prune.ratio": 0.5}, engine=made, excesses=excesses_of(made, budget))


figures = st.fixed_dictionaries(
    {
        "latency_ratio": st.sampled_from([0.2, 0.4, 0.6, 0.8]),
        "accuracy_drop": st.sampled_from([-0.01, 0.0, 0.01, 0.05]),
        "size_bytes": st.sampled_from([100, 200, 300]),
    }
)


@given(st.lists(figures, min_size=1, max_size=12))
def test_the_front_is_what_brute_force_finds(drawn: list[dict[str, Any]]) -> None:
    """Promise: no member is beaten; whatever is left out is beaten by, or equal to an earlier, member."""
    candidates = [tried(number, BudgetSection(), **known) for number, known in enumerate(drawn)]
    found = front(candidates, OBJECTIVES)
    costs = {one.number: tuple(cost(one.engine, name) for name in OBJECTIVES) for one in candidates}

    def beats(a: Tried, b: Tried) -> bool:
        return all(x <= y for x, y in zip(costs[a.number], costs[b.number], strict=True))

    assert found
    for member in found:
        assert not any(beats(other, member) and costs[other.number] != costs[member.number] for other in candidates)
    for one in candidates:
        assert one in found or any(beats(member, one) for member in found)
    assert len({costs[one.number] for one in found}) == len(found)


@given(st.lists(figures, min_size=1, max_size=12))
def test_the_best_is_feasible_whenever_anything_is(drawn: list[dict[str, Any]]) -> None:
    """Promise: the fastest that meets the budget leads; without one, the least violating."""
    candidates = [tried(number, BudgetSection(accuracy_drop=0.01), **known) for number, known in enumerate(drawn)]
    leader = best(candidates, "latency")
    assert leader is not None
    feasible = [one for one in candidates if one.feasible]
    if feasible:
        assert leader.engine.latency_ratio == min(one.engine.latency_ratio or 9 for one in feasible)
    assert leader.feasible == bool(feasible)


def test_what_was_not_measured_meets_no_ceiling() -> None:
    """Promise: an unknown figure is never taken for a good one."""
    missed = excesses_of(engine(latency_ms=None), BudgetSection(latency_ms=5.0))
    assert [one.limit for one in missed] == ["latency_ms"]
    assert "not measured" in missed[0].text()


def test_a_missed_limit_says_how_far_it_would_have_to_move() -> None:
    """Promise: the reader learns which limit binds, and by how much."""
    missed = excesses_of(engine(latency_ms=3.2), BudgetSection(latency_ms=2.0, accuracy_drop=0.01))
    assert [one.text() for one in missed] == ["latency_ms would have to be 3.2 instead of 2"]
    assert missed[0].ratio == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("limit", "known"),
    [
        ("latency_p95_ms", {"latency_p95_ms": 4.0}),
        ("energy_mj", {"energy_mj": 4.0}),
        ("memory_mb", {"memory_bytes": 4 << 20}),
        ("size_mb", {"size_bytes": 4 << 20}),
    ],
)
def test_every_ceiling_counts(limit: str, known: dict[str, Any]) -> None:
    """Promise: each ceiling of the budget is held."""
    assert [one.limit for one in excesses_of(engine(**known), BudgetSection(**{limit: 2.0}))] == [limit]
    assert excesses_of(engine(**known), BudgetSection(**{limit: 4.0})) == ()


def test_of_several_engines_the_one_that_would_ship_stands_for_the_candidate() -> None:
    """Promise: a faster engine below the floor does not hide a slower one that meets it."""
    fast, right = engine(name="fast", accuracy_drop=0.2, latency_ratio=0.1), engine(name="right", latency_ratio=0.5)
    assert best_engine([fast, right], BudgetSection(), "latency")[0].name == "right"
