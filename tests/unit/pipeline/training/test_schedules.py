"""Schedules: the shapes of their sources, within bounds, and refused where they cannot be."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.schedules import Course, Kind, Schedule
from targets.errors import InputError

KINDS: tuple[Kind, ...] = ("constant", "step", "exponential", "cosine", "one-cycle")


@given(
    kind=st.sampled_from(KINDS),
    epochs=st.integers(1, 30),
    per_epoch=st.integers(1, 50),
    warmup=st.one_of(st.none(), st.floats(0, 0.99)),
)
def test_rates_stay_within_the_peak(kind: Kind, epochs: int, per_epoch: int, warmup: float | None) -> None:
    """Promise: never negative, never above the peak, rising over the warm-up and never after it."""
    asked = None if warmup is None else warmup * epochs
    course = Course(Schedule(kind=kind, warmup_epochs=asked), epochs=epochs, steps_per_epoch=per_epoch)
    rates = [course.rate(step) for step in range(course.steps + 1)]
    assert all(0.0 <= rate <= 1.0 + 1e-12 for rate in rates)
    top = rates.index(max(rates))
    assert all(later >= earlier for earlier, later in itertools.pairwise(rates[: top + 1]))
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates[top:]))


def test_step_and_exponential_agree_with_torch() -> None:
    """Promise: without warm-up, at the starts of epochs, they are torch's MultiStepLR and ExponentialLR."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    lrs = torch.optim.lr_scheduler
    falls = Schedule(kind="step", warmup_epochs=0, milestones=(2, 5), decay_factor=0.3)
    fades = Schedule(kind="exponential", warmup_epochs=0, decay_factor=0.8)
    makers: list[Any] = [lambda o: lrs.MultiStepLR(o, [2, 5], 0.3), lambda o: lrs.ExponentialLR(o, 0.8)]
    for schedule, make in zip((falls, fades), makers, strict=True):
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        theirs = make(optimizer)
        course = Course(schedule, epochs=8, steps_per_epoch=4)
        for epoch in range(8):
            assert course.rate(epoch * 4) == pytest.approx(theirs.get_last_lr()[0])
            optimizer.step()
            theirs.step()


def test_one_cycle_agrees_with_torch() -> None:
    """Promise: rate and momentum of the steps are those of torch's OneCycleLR, but for where it puts the peak."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=31 / 101, final_div_factor=400
    )
    course = Course(Schedule(kind="one-cycle"), epochs=10, steps_per_epoch=10)
    for step in range(100):
        group = optimizer.param_groups[0]
        assert course.rate(step) == pytest.approx(group["lr"], abs=1e-9)
        assert course.momentum(step) == pytest.approx(group["momentum"], abs=1e-9)
        optimizer.step()
        theirs.step()


def test_the_rate_can_hold_before_and_after_it_falls() -> None:
    """Promise: constant to decay_from_epoch, half way down in the middle, constant from decay_until_epoch on."""
    schedule = Schedule(warmup_epochs=1, decay_from_epoch=4, decay_until_epoch=8, final_ratio=0.2)
    course = Course(schedule, epochs=10, steps_per_epoch=10)
    assert [round(course.rate(step), 6) for step in (9, 20, 40, 60, 80, 99)] == [1.0, 1.0, 1.0, 0.6, 0.2, 0.2]
    assert course.rate(50) == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)))


@pytest.mark.parametrize(
    ("schedule", "what"),
    [
        (Schedule(warmup_epochs=3), "the warm-up takes 3"),
        (Schedule(warmup_epochs=4, kind="constant"), "the warm-up takes 4"),
        (Schedule(decay_from_epoch=2, decay_until_epoch=1), "ends before it starts"),
        (Schedule(warmup_epochs=2, decay_until_epoch=1.5), "ends before it starts"),
    ],
)
def test_schedules_that_cannot_be_are_refused(schedule: Schedule, what: str) -> None:
    """Promise: three lines, before anything is trained."""
    with pytest.raises(InputError, match=what):
        Course(schedule, epochs=3, steps_per_epoch=5)
