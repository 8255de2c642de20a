"""Nobody is given up without witnesses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.recipe import BudgetSection
from pipeline.search.candidates import Engine, Tried, excesses_of
from pipeline.search.proxies import WITNESSES, Glance, hopeless


def pair(number: int, accuracy: float, macs: int, drop: float, ms: float | None = None) -> tuple[Glance, Tried]:
    made = Engine(
        name="int8", accuracy=0.9, accuracy_drop=drop, latency_ms=ms, latency_ratio=0.5, size_bytes=1, memory_bytes=1
    )
    budget = BudgetSection(accuracy_drop=0.01, latency_ms=None if ms is None else 1.0)
    tried = Tried(number=number, point={}, engine=made, excesses=excesses_of(made, budget))
    return Glance(accuracy=accuracy, macs=macs, predicted_ms=ms), tried


def test_three_that_were_better_off_and_failed_speak_against_one() -> None:
    """Promise: a candidate that is cut deeper, and starts lower, than three that failed, is not trained."""
    seen = [pair(number, 0.5, 100, drop=0.1) for number in range(WITNESSES)]
    assert "1, 2, 3" in hopeless(Glance(accuracy=0.4, macs=90), seen)
    assert not hopeless(Glance(accuracy=0.4, macs=90), seen[1:])
    assert not hopeless(Glance(accuracy=0.6, macs=90), seen)
    assert not hopeless(Glance(accuracy=0.4, macs=110), seen)


def test_a_slow_prediction_needs_slow_witnesses() -> None:
    """Promise: the latency table alone gives nobody up; measured candidates of the same table do."""
    seen = [pair(number, 0.5, 100, drop=0.0, ms=1.5) for number in range(WITNESSES)]
    assert "predicted" in hopeless(Glance(accuracy=0.9, macs=200, predicted_ms=1.6), seen)
    assert not hopeless(Glance(accuracy=0.9, macs=200, predicted_ms=1.4), seen)
    assert not hopeless(Glance(accuracy=0.9, macs=200), seen)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 100)), max_size=8), st.floats(0, 1), st.integers(1, 100))
def test_candidates_that_met_the_floor_speak_against_nobody(
    seen: list[tuple[float, int]], accuracy: float, macs: int
) -> None:
    """Promise: only failures are evidence of failure."""
    finished = [pair(number, one[0], one[1], drop=0.0) for number, one in enumerate(seen)]
    assert not hopeless(Glance(accuracy=accuracy, macs=macs), finished)
