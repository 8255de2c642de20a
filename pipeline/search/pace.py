"""How long a trial's training took a sample, and the rest of it: what a full training will take is told from that."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from pipeline.events import Event, StageFinished, TrainingStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.events import Observer
    from pipeline.recipe import Recipe

TRAINED = "distill"
"""The stage whose training is long, and which a search shortens."""

_SAFE = 0.85  # of the time that is left: other work on the machine comes and goes
_PER_EPOCH = 1.1  # validation after each epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a trial took.

    Attributes:
        sample_s: Wall-clock seconds of training for one sample.
        rest_s: Wall-clock seconds of all stages after it.
    """

    sample_s: float
    rest_s: float

    def to_json(self) -> dict[str, float]:
        """As plain data."""
        return {"sample_s": self.sample_s, "rest_s": self.rest_s}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Pace:
        """What `to_json` gave."""
        return cls(sample_s=data["sample_s"], rest_s=data["rest_s"])


@final
class Stopwatch:
    """An observer that passes everything on, and looks at the clock at each step of training."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None
        self._rest_s = 0.0

    def __call__(self, event: Event) -> None:
        """Notes and passes on."""
        if isinstance(event, TrainingStep) and event.stage == TRAINED:
            self._last = (event.step, time.monotonic())
            self._first = self._first or self._last
        elif isinstance(event, StageFinished):  # what came before training is in the store by then
            self._rest_s = 0.0 if event.stage == TRAINED else self._rest_s + event.wall_s
        self._observer(event)

    def pace(self, recipe: Recipe) -> Pace | None:
        """None where nothing was trained now: the store had it."""
        if self._first is None or self._last is None or self._last[0] == self._first[0] or recipe.distill is None:
            return None
        steps, taken_s = self._last[0] - self._first[0], self._last[1] - self._first[1]
        samples = steps * recipe.distill.batch_size * recipe.distill.accumulate
        return Pace(sample_s=taken_s / samples, rest_s=self._rest_s)


def fitted_epochs(recipe: Recipe, pace: Pace, samples: int, left_s: float) -> int:
    """As many epochs of the recipe's as fit into the time that is left, at least one.

    Args:
        recipe: In full.
        pace: Of a trial with the same model.
        samples: Of the train split, in full.
        left_s: Wall-clock seconds for training and all that comes after it.
    """
    assert recipe.distill is not None
    samples = min(samples, recipe.distill.samples or samples)
    room_s = _SAFE * (left_s - pace.rest_s - recipe.benchmark.budget_s)
    return max(1, min(recipe.distill.epochs, int(room_s / (pace.sample_s * samples * _PER_EPOCH))))
