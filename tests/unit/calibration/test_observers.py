"""Promises of the observers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.observers import BINS, Histogram, MinMax, Observer
from targets.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

values = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0, 1024.0, -0.0]),
)


def seen(*batches: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def squared_error(array: NDArray[np.float32], low: float, high: float, levels: int) -> float:
    """Float64 reference: quantise to ``levels`` values over [low, high] with an exact zero."""
    scale = (high - low) / (levels - 1)
    if scale == 0.0:
        return float(np.sum(array.astype(np.float64) ** 2))
    zero = np.rint(-low / scale)
    back = (np.clip(np.rint(array.astype(np.float64) / scale) + zero, 0, levels - 1) - zero) * scale
    return float(np.sum((back - array) ** 2))


@settings(max_examples=60, deadline=None)
@given(values, st.integers(0, 200))
def test_batching_and_order_do_not_matter(array: NDArray[np.float32], cut: int) -> None:
    """A histogram depends on the values only: any split and order gives the same counts."""
    whole = seen(array)
    parts = seen(array[::-1][cut:], array[::-1][:cut])
    assert np.array_equal(parts.counts, whole.counts)
    assert (parts.zeros, parts.count, parts.radius) == (whole.zeros, whole.count, whole.radius)
    assert parts.range() == whole.range() == (float(array.min()), float(array.max()))


@settings(max_examples=60, deadline=None)
@given(values)
def test_bins_hold_what_they_say(array: NDArray[np.float32]) -> None:
    """Doubling keeps every count in the right bin: numpy's float64 histogram over the same edges is the same."""
    histogram = seen(*np.array_split(array, 7))
    edges = np.linspace(-histogram.radius, histogram.radius, BINS + 1)
    bins = np.searchsorted(edges, array.astype(np.float64), side="right") - 1
    assert np.array_equal(histogram.counts, np.bincount(bins, minlength=BINS))
    assert histogram.counts.sum() == array.size
    largest = float(np.abs(array).max())
    assert largest == 0.0 or histogram.bin_width <= largest / 512.0


@settings(max_examples=60, deadline=None)
@given(values, st.floats(50.0, 100.0))
def test_percentile_is_within_one_bin(array: NDArray[np.float32], percent: float) -> None:
    """The percentile range is at most one bin width from the exact one, and never outside the range seen."""
    histogram = seen(array)
    low, high = histogram.percentile_range(percent)
    tail = (1.0 - percent / 100.0) / 2.0 * array.size
    ordered = np.sort(array).astype(np.float64)
    exact_low = ordered[int(np.argmax(np.arange(1, array.size + 1) > tail))]
    exact_high = ordered[::-1][int(np.argmax(np.arange(1, array.size + 1) > tail))]
    assert abs(low - exact_low) <= histogram.bin_width
    assert abs(high - exact_high) <= histogram.bin_width
    assert array.min() <= low <= high <= array.max()


@pytest.mark.parametrize("kind", ["normal", "relu", "laplace", "shifted"])
@pytest.mark.parametrize("levels", [16, 256])
def test_mse_range_is_near_the_best(kind: str, levels: int) -> None:
    """The MSE range has at most 3 % more real squared error than the best of a float64 grid search, both-sided."""
    rng = np.random.default_rng(3)
    array = {
        "normal": rng.standard_normal(40_000),
        "relu": np.maximum(rng.standard_normal(40_000) - 0.3, 0.0),
        "laplace": rng.laplace(size=40_000),
        "shifted": rng.standard_normal(40_000) + 1.5,
    }[kind].astype(np.float32)
    found = squared_error(array, *seen(array).mse_range(levels), levels)
    shares = np.linspace(0.15, 1.0, 40)
    low, high = min(float(array.min()), 0.0), float(array.max())
    best = min(
        squared_error(array, low * a, high * b, levels) for a in (shares if low < 0.0 else (1.0,)) for b in shares
    )
    assert found <= best * 1.03


def test_mse_range_stays_on_the_side_of_the_values() -> None:
    """After a Relu the low end is exactly zero; for negative values the high end is."""
    array = np.abs(np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    assert seen(array).mse_range(256)[0] == 0.0
    assert seen(-array).mse_range(256)[1] == 0.0


def test_zeros_alone() -> None:
    """A dead tensor has the range [0, 0] by every method, and later values are still placed right."""
    histogram = seen(np.zeros(5, np.float32))
    assert histogram.range() == histogram.mse_range(256) == histogram.percentile_range(99.9) == (0.0, 0.0)
    histogram.update(np.array([3.0], np.float32))
    assert histogram.counts[BINS // 2] == 5
    assert histogram.range() == (0.0, 3.0)


@pytest.mark.parametrize("observer", [MinMax, Histogram])
def test_nothing_seen_is_an_error(observer: type[Observer]) -> None:
    """An observer that saw no value has no range."""
    empty = observer()
    empty.update(np.empty(0, np.float32))
    with pytest.raises(InputError, match="had no values"):
        empty.range()
