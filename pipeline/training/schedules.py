"""The learning rate, and with one-cycle the momentum, at each step of a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, Protocol, final

from targets.errors import InputError

Kind = Literal["constant", "step", "exponential", "cosine", "one-cycle"]

_ONE_CYCLE_START: Final = 25.0  # the rate starts at the peak over this
_ONE_CYCLE_END: Final = 1e4  # and ends at the peak over this
_ONE_CYCLE_RISE: Final = 0.3
_MOMENTA: Final = (0.95, 0.85)
_MILESTONES: Final = (0.5, 0.75)
_FACTORS: Final = {"step": 0.1, "exponential": 0.9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What the learning rate does.

    Attributes:
        kind: ``constant``; ``step`` (He et al., arXiv 1512.03385, section 4.2); ``exponential``; ``cosine`` (Loshchilov
            and Hutter, arXiv 1608.03983, equation 5, one period); ``one-cycle`` (Smith and Topin, arXiv 1708.07120).
        warmup_epochs: Linear rise to the peak (Goyal et al., arXiv 1706.02677, section 2.2); None for a tenth of the
            training, three tenths with ``one-cycle``.
        milestones: With ``step``: epochs after which the rate falls; None for a half and three quarters of them.
        decay_factor: What it falls to, at each milestone (0.1 when None) or in each epoch of ``exponential`` (0.9).
        final_ratio: Where ``cosine`` ends, as a share of the peak.
        decay_from_epoch: Where ``cosine`` and ``exponential`` begin to fall; None for the end of the warm-up.
        decay_until_epoch: Where they end, constant from there on; None for the end of the training.
    """

    kind: Kind = "cosine"
    warmup_epochs: float | None = None
    milestones: tuple[float, ...] | None = None
    decay_factor: float | None = None
    final_ratio: float = 0.0
    decay_from_epoch: float | None = None
    decay_until_epoch: float | None = None


class Rates(Protocol):
    """Learning rate and momentum at each step."""

    def rate(self, step: float) -> float:
        """As a share of the peak, after ``step`` steps."""

    def momentum(self, step: float) -> float | None:
        """The momentum, where it changes."""


@final
class Course:
    """A schedule laid out over the steps of one training.

    Args:
        schedule: The schedule.
        epochs: Of the training.
        steps_per_epoch: Optimiser steps.

    Raises:
        InputError: The warm-up is longer than the training, or the schedule ends before it starts.
    """

    def __init__(self, schedule: Schedule, *, epochs: int, steps_per_epoch: int) -> None:
        self.steps: Final = epochs * steps_per_epoch
        self._schedule, self._per_epoch = schedule, steps_per_epoch
        self._warmup = self._warmup_steps()
        start = schedule.decay_from_epoch
        end = schedule.decay_until_epoch
        self._start = max(self._warmup, 0 if start is None else start * steps_per_epoch)
        self._end = self.steps if end is None else end * steps_per_epoch
        if schedule.warmup_epochs is not None and schedule.warmup_epochs >= epochs:
            raise InputError(
                f"the warm-up takes {schedule.warmup_epochs} epochs",
                f"the whole training takes {epochs}",
                "set warmup_epochs below epochs",
            )
        if schedule.kind in {"cosine", "exponential"} and self._end <= self._start < self.steps:
            raise InputError(
                "the schedule ends before it starts",
                f"the rate falls from epoch {self._start / steps_per_epoch:g} (not before the end of the warm-up) "
                f"until epoch {self._end / steps_per_epoch:g}",
                "set decay_until_epoch above decay_from_epoch and warmup_epochs",
            )

    def rate(self, step: float) -> float:
        """The learning rate as a share of the peak, after ``step`` steps (from 0; fractions are between steps)."""
        kind = self._schedule.kind
        if kind == "one-cycle":
            return self._one_cycle(step)
        if step < self._warmup:
            return (step + 1) / self._warmup if self._warmup > 1 else 1.0
        if kind == "constant":
            return 1.0
        if kind == "step":
            return self._factor() ** sum(step >= epoch * self._per_epoch for epoch in self._milestones())
        gone = min(step, self._end) - self._start
        if kind == "exponential":
            return float(self._factor() ** max(0.0, gone / self._per_epoch))
        share = min(1.0, max(0.0, gone) / max(1, self._end - self._start))
        low = self._schedule.final_ratio
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))

    def momentum(self, step: float) -> float | None:
        """The momentum that ``one-cycle`` wants, high where the rate is low; None where it stays what it is."""
        if self._schedule.kind != "one-cycle":
            return None
        high, low = _MOMENTA
        return (
            _between(high, low, step / self._warmup) if step < self._warmup else _between(low, high, self._fall(step))
        )

    def _one_cycle(self, step: float) -> float:
        if step < self._warmup:
            return _between(1 / _ONE_CYCLE_START, 1.0, step / self._warmup)
        return _between(1.0, 1 / _ONE_CYCLE_END, self._fall(step))

    def _fall(self, step: float) -> float:
        return min(1.0, (step - self._warmup) / max(1, self.steps - self._warmup))

    def _warmup_steps(self) -> int:
        asked = self._schedule.warmup_epochs
        if asked is not None:
            return min(round(asked * self._per_epoch), self.steps - 1)
        if self._schedule.kind == "one-cycle":
            return max(1, int(self.steps * _ONE_CYCLE_RISE))
        return max(1, self.steps // 10)

    def _factor(self) -> float:
        asked = self._schedule.decay_factor
        return _FACTORS[self._schedule.kind] if asked is None else asked

    def _milestones(self) -> tuple[float, ...]:
        asked = self._schedule.milestones
        return tuple(self.steps / self._per_epoch * share for share in _MILESTONES) if asked is None else asked


def _between(start: float, end: float, share: float) -> float:
    """From ``start`` to ``end`` along half a cosine."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
