"""The knapsack finds the best widths there are."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.latency.knapsack import Problem, solve, values_of, vertex_cover


def problem(seed: int, groups: int, widths: int, *, met: bool) -> Problem:
    """A net of layers in a row, each reading the group before it: costs are products of neighbouring widths."""
    rng = np.random.default_rng(seed)
    names = [f"g{i}" for i in range(groups)]
    choices = {name: tuple(range(1, widths + 1)) for name in names}
    scores = {name: rng.random(widths) for name in names}
    weights = rng.random(groups) + 0.1
    pairs = list(pairwise(names)) if met else []

    def cost(found: dict[str, int]) -> float:
        alone = sum(float(weight) * found[name] for name, weight in zip(names, weights, strict=True))
        return alone + sum(found[a] * found[b] for a, b in pairs)

    return Problem(
        choices=choices, values=values_of(choices, scores), meetings=[frozenset(pair) for pair in pairs], cost=cost
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 4), st.booleans(), st.floats(0.2, 0.95))
def test_as_good_as_trying_everything(seed: int, groups: int, widths: int, met: bool, share: float) -> None:  # noqa: FBT001
    """Promise: no widths that fit keep more importance, whether layers share groups or not (to the step of a cost)."""
    p = problem(seed, groups, widths, met=met)
    whole = {name: found[-1] for name, found in p.choices.items()}
    budget = share * p.cost(whole)
    every = [dict(zip(p.choices, found, strict=True)) for found in product(*p.choices.values())]
    fitting = [found for found in every if p.cost(found) <= budget]
    found = solve(p, budget)
    if not fitting:
        assert found is None
        return
    assert found is not None
    assert p.cost(found) <= budget
    tight = [other for other in fitting if p.cost(other) <= budget * (1 - groups / 4096)]
    assert p.value(found) >= max((p.value(other) for other in tight), default=0.0) - 1e-9


def test_many_hubs_climb_to_something_good() -> None:
    """Promise: where the cover has too many widths to try all, what is found fits and is near what all would give."""
    p = problem(3, 12, 5, met=True)
    whole = {name: found[-1] for name, found in p.choices.items()}
    budget = 0.4 * p.cost(whole)
    found = solve(p, budget)
    assert found is not None
    assert p.cost(found) <= budget
    uniform = max(
        (dict.fromkeys(p.choices, width) for width in range(1, 6) if p.cost(dict.fromkeys(p.choices, width)) <= budget),
        key=p.value,
    )
    assert p.value(found) > p.value(uniform)


@given(st.lists(st.frozensets(st.sampled_from("abcdefg"), min_size=1, max_size=3), max_size=8))
def test_cover_leaves_no_two_together(meetings: list[frozenset[str]]) -> None:
    """Promise: without the cover, no meeting holds two groups."""
    cover = set(vertex_cover(meetings))
    assert all(len(meeting - cover) <= 1 for meeting in meetings)


def test_values_are_those_of_the_best_units() -> None:
    """Promise: a width keeps the importance of its highest units."""
    found = values_of({"a": (1, 3)}, {"a": np.array([0.5, 2.0, 1.0])})
    assert found == {"a": (2.0, 3.5)}
