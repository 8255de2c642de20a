"""Promises of the observers and of the record they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.histogram import AVERAGING, BINS, RESERVOIR
from calibration.observers import METHODS, MSE, Entropy, MinMax, MovingAverage, Percentile, Seen, ranges
from targets.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.observers import Observer

batches = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 30), st.integers(1, 12)),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0, 1024.0, -0.0]),
)


@settings(max_examples=60, deadline=None)
@given(batches, st.lists(st.integers(0, 30), max_size=3))
def test_no_method_depends_on_batching(array: NDArray[np.float32], cuts: list[int]) -> None:
    """With every value in the histogram, all five ranges are the same to the last bit however samples are batched."""
    whole, parts = Seen(), Seen()
    whole.update(array, len(array))
    for part in np.split(array, sorted(min(cut, len(array)) for cut in cuts)):
        parts.update(part, len(part))
    assert ranges(parts, [*METHODS]) == ranges(whole, [*METHODS])
    assert parts.count == whole.count == array.size
    assert np.array_equal(parts.extremes.by_sample(), whole.extremes.by_sample())


@settings(max_examples=60, deadline=None)
@given(batches)
def test_ranges_are_numpys(array: NDArray[np.float32]) -> None:
    """Extremes are numpy's; the moving average is a float64 loop over samples; no method leaves what was seen."""
    seen = Seen()
    seen.update(array, len(array))
    low, high = float(array.min()), float(array.max())
    average = array[0].min().astype(np.float64), array[0].max().astype(np.float64)
    for row in array[1:]:
        average = tuple(a + AVERAGING * (float(b) - a) for a, b in zip(average, (row.min(), row.max()), strict=True))
    assert MinMax(seen).range() == (low, high)
    assert MovingAverage(seen).range() == pytest.approx(average, rel=1e-12, abs=1e-12)
    assert np.array_equal(seen.extremes.by_sample(), np.stack([array.min(axis=1), array.max(axis=1)], axis=1))
    for observer in (Percentile, Entropy, MSE):
        a, b = observer(seen).range()
        assert min(low, 0.0) <= a <= b <= max(high, 0.0)


def test_large_tensors_are_read_in_parts() -> None:
    """Rows longer than a part, rows that share a part, and rows of no sample axis give numpy's extremes and counts."""
    rng = np.random.default_rng(0)
    for shape, samples in (((3, 70_001), 3), ((700, 300), 700), ((5, 40_000), 2)):
        array = rng.standard_normal(shape).astype(np.float32)
        array.reshape(-1)[-1] = 9.0
        array.reshape(-1)[0] = -8.0
        seen = Seen()
        seen.update(array, samples)
        assert seen.extremes.range() == (-8.0, 9.0)
        assert seen.count == seen.histogram.counts.sum() == array.size
        edges = seen.histogram.edges()
        assert np.array_equal(seen.histogram.counts, np.histogram(array.astype(np.float64), edges)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 69_999, 139_999])
def test_no_part_hides_nan_or_inf(bad: float, place: int) -> None:
    """NaN and Inf are noticed wherever they stand in a tensor of several parts."""
    array = np.ones((1, 140_000), np.float32)
    array[0, place] = bad
    assert not Seen().update(array)
    with pytest.raises(InputError, match="NaN or Inf"):
        MinMax().update(array)


def test_moving_average_depends_on_order() -> None:
    """Later samples count more: the reverse order gives another range."""
    array = np.arange(1, 201, dtype=np.float32).reshape(200, 1)
    forward, backward = Seen(), Seen()
    forward.update(array, 200)
    backward.update(array[::-1], 200)
    assert MovingAverage(forward).range()[1] > 105.0 > MovingAverage(backward).range()[1]
    assert MinMax(forward).range() == MinMax(backward).range()


@settings(max_examples=30, deadline=None)
@given(batches)
def test_sampling_leaves_the_extremes_exact(array: NDArray[np.float32]) -> None:
    """With sampled histograms every value still counts in the extremes, and small tensors are seen whole."""
    sampled, whole = Seen(every="sampled"), Seen()
    sampled.update(array, len(array))
    whole.update(array, len(array))
    assert ranges(sampled, [*METHODS]) == ranges(whole, [*METHODS])


def test_the_sample_of_samples_is_bounded_and_fair() -> None:
    """More samples than the reservoir holds: it stays full, and early and late samples are equally likely in it."""
    seen = Seen()
    count = 20 * RESERVOIR
    seen.update(np.arange(1, count + 1, dtype=np.float32).reshape(-1, 1), count)
    kept = seen.extremes.by_sample()
    assert kept.shape == (RESERVOIR, 2)
    assert abs(kept[:, 1].mean() / count - 0.5) < 5.0 / np.sqrt(12 * RESERVOIR)


def test_zeros_alone() -> None:
    """A dead tensor has the range [0, 0] by every method, and later values are still placed right."""
    seen = Seen()
    seen.update(np.zeros(5, np.float32))
    assert set(ranges(seen, [*METHODS]).values()) == {(0.0, 0.0)}
    seen.update(np.array([3.0], np.float32))
    assert seen.histogram.counts[BINS // 2] == 5
    assert MinMax(seen).range() == (0.0, 3.0)


@pytest.mark.parametrize("observer", [*METHODS.values()])
def test_nothing_seen_is_an_error(observer: type[Observer]) -> None:
    """An observer that saw no value has no range."""
    empty = observer()
    empty.update(np.empty(0, np.float32))
    with pytest.raises(InputError, match="had no values"):
        empty.range()


@pytest.mark.parametrize("observer", [*METHODS.values()])
def test_constant_tensors_have_their_value(observer: type[Observer]) -> None:
    """A constant lies inside every method's range (zero counted in), so its scale is never zero."""
    constant = observer()
    constant.update(np.full((4, 9), 0.37, np.float32), 4)
    low, high = constant.range()
    assert low <= np.float32(0.37) <= high + constant.seen.histogram.bin_width
    assert high > 0.0
