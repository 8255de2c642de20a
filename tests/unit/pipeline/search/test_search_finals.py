"""Where screening trains less: what is expected of a candidate, who is trained in full, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import StageFinished, TrainingStep
from pipeline.recipe import BudgetSection, Recipe, load_recipe
from pipeline.recipe.searching import SearchSection
from pipeline.search.candidates import Engine, Tried
from pipeline.search.finals import finalist, is_shortened, judged, next_final, regained_share
from pipeline.search.pace import Pace, Stopwatch, fitted_epochs

if TYPE_CHECKING:
    from pathlib import Path

BUDGET = BudgetSection(accuracy_drop=0.01, latency_ratio=0.25)


def engine(drop: float, ratio: float) -> Engine:
    return Engine(
        name="int8", accuracy=0.9 - drop, accuracy_drop=drop, latency_ms=ratio, latency_ratio=ratio,
        size_bytes=1, memory_bytes=1,
    )  # fmt: skip


def tried(number: int, drop: float, ratio: float) -> Tried:
    return Tried(number=number, point={}, engine=engine(drop, ratio), excesses=())


def final(drop: float, ratio: float) -> dict[str, Any]:
    met = drop <= 0.01 and ratio <= 0.25
    return {"met_budget": met, "shipped": "int8", "engine": engine(drop, ratio).to_json()}


def test_a_screening_that_trains_less_is_told_from_one_that_measures_less() -> None:
    """Promise: a shorter benchmark confirms leaders at once, a shorter training puts finals last."""
    assert not is_shortened(SearchSection())
    assert is_shortened(SearchSection(screening={"distill.samples": 100}))


def test_what_training_gives_back_is_learned_from_the_finals() -> None:
    """Promise: before any final the recipe's guess holds, afterwards the median of what finals gave back."""
    seen = [tried(0, 0.2, 0.2), tried(1, 0.1, 0.3), tried(2, 0.4, 0.1)]
    assert regained_share(seen, {}, 0.5) == 0.5
    known = {0: final(0.02, 0.2), 1: final(0.05, 0.3)}
    assert regained_share(seen, known, 0.5) == pytest.approx(0.7)
    by_number = {one.number: one for one in judged(seen, known, BUDGET, 0.7)}
    assert by_number[0].engine.accuracy_drop == 0.02, "a final counts by what it reached"
    assert by_number[2].excesses[0].value == pytest.approx(0.12)


def test_ceilings_come_before_the_floor() -> None:
    """Promise: a net that is too slow is no finalist while another is fast enough: training makes nothing faster."""
    seen = judged([tried(0, 0.05, 0.5), tried(1, 0.20, 0.24), tried(2, 0.15, 0.25)], {}, BUDGET, 0.5)
    chosen = next_final(seen, {}, "accuracy", finals=1)
    assert chosen is not None
    assert chosen.number == 2
    assert next_final(seen, {2: final(0.02, 0.25)}, "accuracy", finals=1) is None


def test_the_best_is_the_best_of_the_finals() -> None:
    """Promise: one that meets the budget beats any that does not, whatever screening promised."""
    seen = [tried(0, 0.02, 0.2), tried(1, 0.03, 0.25), tried(2, 0.01, 0.1)]
    known = {0: final(0.03, 0.2), 1: final(0.01, 0.25)}
    leader = finalist(judged(seen, known, BUDGET, 0.5), known, "latency")
    assert leader is not None
    assert leader.number == 1


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0.05, 1)), min_size=1, max_size=6), st.integers(1, 6))
def test_finals_end(figures: list[tuple[float, float]], finals: int) -> None:
    """Promise: no candidate is trained in full twice, and never more of them than were asked for."""
    seen, known = [tried(number, *one) for number, one in enumerate(figures)], dict[int, dict[str, Any]]()
    while (one := next_final(judged(seen, known, BUDGET, 0.5), known, "latency", finals)) is not None:
        assert one.number not in known
        known[one.number] = final(one.engine.accuracy_drop / 2, one.engine.latency_ratio or 1)
    assert 1 <= len(known) <= min(finals, len(seen))


def test_what_a_trial_took_is_told_by_its_steps_and_what_came_after(tmp_path: Path) -> None:
    """Promise: stages before the training are in the store by then, and count for nothing."""
    heard: list[object] = []
    watch, recipe = Stopwatch(heard.append), _recipe(tmp_path, epochs=2)
    assert watch.pace(recipe) is None
    for stage in ("prune", "distill", "build", "benchmark"):
        for step in range(1, 4) if stage == "distill" else ():
            watch(TrainingStep(stage=stage, step=step, steps=3, epoch=1, done=step / 3, values={}))
        watch(StageFinished(stage=stage, title="", reused=False, wall_s=5.0, results={}, digest=""))
    pace = watch.pace(recipe)
    assert pace is not None
    assert pace.rest_s == 10.0
    assert 0 < pace.sample_s < 1
    assert len(heard) == 7, "everything is passed on"


def _recipe(folder: Path, epochs: int) -> Recipe:
    text = (
        'task = "classification"\n[model]\nfactory = "u.py:n"\nweights = "w.safetensors"\n[data]\nfactory = "u.py:d"\n'
    )
    text += f"[prune]\nratio = 0.5\n[distill]\nepochs = {epochs}\n"
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    return load_recipe(folder)


def test_epochs_fit_into_the_time_that_is_left(tmp_path: Path) -> None:
    """Promise: as many epochs as fit with room to spare, at most the recipe's, and at least one."""
    recipe, pace = _recipe(tmp_path, epochs=20), Pace(sample_s=0.001, rest_s=40.0)
    assert fitted_epochs(recipe, pace, 10_000, left_s=100_000.0) == 20
    assert fitted_epochs(recipe, pace, 10_000, left_s=1.0) == 1
    epochs = fitted_epochs(recipe, pace, 10_000, left_s=200.0)
    assert 1 < epochs < 20
    assert epochs * 10.0 + 40.0 + recipe.benchmark.budget_s < 200.0
