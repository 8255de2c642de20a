"""A candidate's whole recipe: run to its end, and published as the best so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.compose import compose
from pipeline.runner import run_plan
from pipeline.search.trial import engines_of

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.events import Observer
    from pipeline.recipe import Recipe
    from pipeline.runner import Outcome
    from pipeline.search.candidates import Engine
    from pipeline.store import Store
    from targets.profile import TargetProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class FullRun:
    """What a full run gave.

    Attributes:
        met_budget: What the gate said.
        shipped: Name of the candidate that the gate chose.
        engines: All of them, as the full measurement saw them.
        outcomes: Where everything is in the store.
    """

    met_budget: bool
    shipped: str
    engines: Sequence[Engine]
    outcomes: Mapping[str, Outcome]

    @property
    def engine(self) -> Engine | None:
        """The one that ships; None where that is the uncompressed model."""
        return next((engine for engine in self.engines if engine.name == self.shipped), None)

    def publish(self, store: Store, folder: Path) -> None:
        """Puts bundle and report into ``folder``, in place of what was there."""
        from pipeline.api import publish

        publish(self.outcomes, store, folder)


def run_in_full(recipe: Recipe, profile: TargetProfile, store: Store, observer: Observer) -> FullRun:
    """Runs a recipe to its bundle and report.

    Raises:
        EdgepressError: It cannot be made.
    """
    outcomes = run_plan(compose(recipe, profile), store, observer)
    verdict = outcomes["gate"].entry.meta
    return FullRun(
        met_budget=bool(verdict["met_budget"]),
        shipped=str(verdict["shipped"]),
        engines=engines_of(outcomes, store),
        outcomes=outcomes,
    )


def train_samples(recipe: Recipe, profile: TargetProfile, store: Store, observer: Observer) -> int:
    """Samples of the train split."""
    outcome = run_plan(compose(recipe, profile, until="data"), store, observer)["data"]
    samples = outcome.entry.meta["samples"]
    assert isinstance(samples, Mapping)
    return int(samples["train"])
