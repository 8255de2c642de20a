"""From readings to joules, against independent references: wrapping counters and integrated power."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice import integration

RANGE = 262_143_328_850  # a real max_energy_range_uj


@settings(max_examples=100, deadline=None)
@given(
    wrap=st.integers(1000, RANGE),
    start=st.integers(0, RANGE),
    steps=st.lists(st.integers(0, 999), min_size=1, max_size=50),
)
def test_a_counter_that_wraps_gives_the_energy_that_flowed(wrap: int, start: int, steps: list[int]) -> None:
    """Whatever the range and the start, unwrapped readings are the running sum of what was added."""
    totals = np.cumsum([0, *steps])
    readings = [int((start + total) % wrap) for total in totals]
    assert integration.unwrap(readings, wrap) == totals.tolist()


@settings(max_examples=50, deadline=None)
@given(gaps=st.lists(st.integers(1_000_000, 200_000_000), min_size=2, max_size=40), data=st.data())
def test_power_is_integrated_as_numpy_integrates_it(gaps: list[int], data: st.DataObject) -> None:
    """Over all readings and over any part of them the energy is numpy's trapezoid of the interpolated power."""
    times = np.cumsum(gaps)
    microwatts = data.draw(st.lists(st.integers(0, 50_000_000), min_size=len(times), max_size=len(times)))
    series = integration.to_series(list(zip(times.tolist(), microwatts, strict=True)), counter=False)
    low, high = int(times[0]), int(times[-1])
    start = data.draw(st.integers(low, high - 1))
    end = data.draw(st.integers(start + 1, high))
    points = np.unique(np.concatenate([[start], times[(times > start) & (times < end)], [end]]))
    reference = np.trapezoid(np.interp(points, times, np.array(microwatts) / 1e6), points / 1e9)
    assert integration.joules(series, start, end) == pytest.approx(reference, rel=1e-9, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    milliwatts=st.integers(1, 400_000), wrap=st.integers(10**9, RANGE), first=st.integers(0, RANGE),
    window=st.tuples(st.floats(0, 0.5), st.floats(0.51, 1)),
)  # fmt: skip
def test_a_counter_and_a_power_meter_of_the_same_load_agree(
    milliwatts: int, wrap: int, first: int, window: tuple[float, float]
) -> None:
    """Constant power: the wrapping counter and the integrated power give the same joules in any window."""
    times = range(0, 2_000_000_001, 20_000_000)
    counted = [(t, (first + milliwatts * t // 10**6) % wrap) for t in times]
    shown = [(t, milliwatts * 1000) for t in times]
    start, end = (int(share * 2e9) for share in window)
    energies = [
        integration.joules(integration.to_series(counted, counter=True, wraps=[wrap]), start, end),
        integration.joules(integration.to_series(shown, counter=False), start, end),
    ]
    assert energies == pytest.approx([milliwatts / 1000 * (end - start) / 1e9] * 2, rel=1e-6, abs=1e-5)


def test_parts_are_added_each_with_its_own_wrap() -> None:
    """Two packages: one wraps, the other does not; the sum counts both."""
    rows = [(0, 900, 10), (1_000_000_000, 100, 30)]
    series = integration.to_series(rows, counter=True, wraps=[1000, 0])
    assert series.values == [0.0, pytest.approx(220e-6)]
    assert integration.mean_watts(series) == pytest.approx(220e-6)


def test_readings_that_do_not_reach_give_no_joules() -> None:
    """A window that starts before the first or ends after the last reading, or is empty, has no energy."""
    series = integration.to_series([(100, 5), (200, 9)], counter=True, wraps=[0])
    assert integration.joules(series, 99, 150) is None
    assert integration.joules(series, 150, 201) is None
    assert integration.joules(series, 150, 150) is None
    assert integration.joules(integration.to_series([], counter=True), 0, 1) is None
    assert integration.mean_watts(integration.to_series([(1, 1)], counter=False)) is None


def test_only_new_figures_count_as_updates() -> None:
    """A sensor polled faster than it is renewed is not made finer by that."""
    rows = [(i, value) for i, value in enumerate([1, 1, 1, 2, 2, 3, 3, 3, 3, 4])]
    series = integration.to_series(rows, counter=True, wraps=[0])
    assert integration.updates(series, 0, 9) == 3
    assert integration.updates(series, 4, 8) == 1
