"""Promises of the histogram, of sampling, and of the ranges read from it."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration import sampling
from calibration.histogram import BINS, Histogram
from calibration.histogram_ranges import entropy_range, mse_range, percentile_range
from calibration.observers import Seen
from calibration.sampling import ALL_BELOW, STRIDE, Sampler

if TYPE_CHECKING:
    from numpy.typing import NDArray

values = hnp.arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0, 1024.0, -0.0]),
)


def filled(*batches: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def ends(array: NDArray[np.float32]) -> tuple[float, float]:
    return float(array.min()), float(array.max())


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
    whole = filled(array)
    parts = filled(array[::-1][cut:], array[::-1][:cut])
    assert np.array_equal(parts.counts, whole.counts)
    assert (parts.zeros, parts.radius) == (whole.zeros, whole.radius)


@settings(max_examples=60, deadline=None)
@given(values)
def test_bins_hold_what_they_say(array: NDArray[np.float32]) -> None:
    """Doubling keeps every count in the right bin: numpy's float64 histogram over the same edges is the same."""
    histogram = filled(*np.array_split(array, 7))
    bins = np.searchsorted(histogram.edges(), array.astype(np.float64), side="right") - 1
    assert np.array_equal(histogram.counts, np.bincount(bins, minlength=BINS))
    assert histogram.zeros == np.count_nonzero(array == 0.0)
    largest = float(np.abs(array).max())
    assert largest == 0.0 or histogram.bin_width <= largest / 512.0


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e30, 3e38])
def test_extreme_magnitudes_are_placed(size: float) -> None:
    """Values at both ends of float32, subnormal ones too, fall into the bins of exact arithmetic."""
    array = np.array([-1.0, -0.5, 0.0, 0.3, 1.0], np.float32) * np.float32(size)
    histogram = filled(array)
    bins = np.searchsorted(histogram.edges(), array.astype(np.float64), side="right") - 1
    assert np.array_equal(histogram.counts, np.bincount(bins, minlength=BINS))


@settings(max_examples=60, deadline=None)
@given(values, st.floats(50.0, 100.0))
def test_percentile_is_within_one_bin(array: NDArray[np.float32], percent: float) -> None:
    """The percentile range is at most one bin width from the exact one, and never outside the range seen."""
    histogram = filled(array)
    low, high = percentile_range(histogram, ends(array), percent)
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
    array = activations(kind, 40_000)
    found = squared_error(array, *mse_range(filled(array), ends(array), levels), levels)
    shares = np.linspace(0.15, 1.0, 40)
    low, high = min(float(array.min()), 0.0), float(array.max())
    best = min(
        squared_error(array, low * a, high * b, levels) for a in (shares if low < 0.0 else (1.0,)) for b in shares
    )
    assert found <= best * 1.03


def test_mse_range_stays_on_the_side_of_the_values() -> None:
    """After a Relu the low end is exactly zero; for negative values the high end is."""
    array = np.abs(np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    assert mse_range(filled(array), ends(array), 256)[0] == 0.0
    assert mse_range(filled(-array), ends(-array), 256)[1] == 0.0


def activations(kind: str, count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    array = {
        "normal": rng.standard_normal(count),
        "relu": np.maximum(rng.standard_normal(count) - 0.3, 0.0),
        "laplace": rng.laplace(size=count),
        "shifted": rng.standard_normal(count) + 1.5,
        "outlier": np.append(rng.standard_normal(count - 1), 30.0),
        "silu": (x := rng.standard_normal(count) * 2.0) / (1.0 + np.exp(-x)),
        "steps": rng.integers(-40, 40, count) / 4.0,
    }[kind]
    return np.asarray(array, np.float32)


def slow_divergence(bins: list[float], end: int) -> float:
    """KL(P || Q) of the first ``end`` bins against 128 levels, one bin at a time, as the slides tell it."""
    reference = bins[:end]
    reference[-1] += sum(bins[end:])
    candidate = [0.0] * end
    levels: list[list[int]] = [[] for _ in range(128)]
    for j in range(end):
        levels[j * 128 // end].append(j)
    for members in levels:
        filled_members = [j for j in members if bins[j] > 0.0]
        for j in filled_members:
            candidate[j] = sum(bins[k] for k in members) / len(filled_members)
    total = sum(candidate)
    candidate[-1] = candidate[-1] or 1e-4
    p, q = np.array(reference) / sum(reference), np.array(candidate) / total
    used = p > 0.0
    return float(np.sum(p[used] * np.log(p[used] / q[used])))


@pytest.mark.parametrize("kind", ["normal", "relu", "laplace", "shifted", "outlier", "silu", "steps"])
def test_entropy_is_the_slow_reference(kind: str) -> None:
    """The threshold minimises the divergence of a float64 loop over bins and levels, for every candidate."""
    array = activations(kind, 6_000)
    histogram = filled(array)
    bins = (histogram.counts[BINS // 2 :] + histogram.counts[: BINS // 2][::-1]).astype(float)
    bins[0] -= histogram.zeros
    used = int(np.flatnonzero(bins)[-1]) + 1
    losses = {end: slow_divergence([*bins[:used]], end) for end in range(used, 127, -4)}
    low, high = entropy_range(histogram, ends(array))
    threshold = max(-low, high)
    found = min(losses, key=lambda end: abs(end * histogram.bin_width - threshold))
    assert losses[found] <= min(losses.values()) + 1e-9
    assert (low, high) == (max(ends(array)[0], -threshold), min(ends(array)[1], threshold))


def test_entropy_cuts_outliers_and_ignores_zeros() -> None:
    """One far outlier does not set the range, and any number of exact zeros changes nothing."""
    array = activations("outlier", 40_000)
    low, high = entropy_range(filled(array), ends(array))
    assert 2.0 < -low < 10.0
    assert 2.0 < high < 10.0
    zeros = np.zeros(400_000, np.float32)
    assert entropy_range(filled(array, zeros), ends(array)) == (low, high)


def test_sampling_draws_one_of_each_eight() -> None:
    """Every stretch gives exactly one value of each eight, in order; a short rest gives one too."""
    for size in (ALL_BELOW, sampling.STRETCH, 10_001, 9):
        drawn = Sampler(1).draw(np.arange(size, dtype=np.float32))
        assert np.array_equal(drawn // STRIDE, np.arange(-(-size // STRIDE)))
    seen = Seen(every="sampled")
    seen.update(np.ones((2, 100_003), np.float32), 2)
    assert seen.histogram.counts.sum() * 8 >= 200_006


@pytest.mark.parametrize("kind", ["noise", "stripes", "sorted", "blocks"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5])
def test_rank_error_keeps_its_bound(kind: str, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 200 draws the rank error has the stated mean and variance, also for data periodic in the stride."""
    size = 2**15
    count = int(share * size)
    rng = np.random.default_rng(0)
    array = {
        "noise": lambda: rng.permutation(np.arange(size)),
        "stripes": lambda: np.arange(size).reshape(STRIDE, -1).T.reshape(-1),  # small values at one place in eight
        "sorted": lambda: np.arange(size),
        "blocks": lambda: rng.permutation(np.arange(size).reshape(-1, 64)).reshape(-1),
    }[kind]()
    below = (array < count).astype(np.float32)
    exact = count / size
    errors = []
    for seed in range(200):
        pattern = np.random.default_rng(seed).integers(STRIDE, size=2**14)
        turned = (pattern[None, :] + np.arange(STRIDE)[:, None]) % STRIDE + np.arange(2**14) * STRIDE
        monkeypatch.setattr(sampling, "_PATTERNS", turned)
        errors.append(float(Sampler(seed).draw(below).mean()) - exact)
    bound = np.sqrt(exact * (1.0 - exact) / (size / STRIDE))
    assert np.sqrt(np.mean(np.square(errors))) <= bound * 1.2  # 200 draws tell the deviation to a tenth
    assert np.mean(np.abs(errors) > 3.0 * bound) <= 1.0 / 9.0
    assert abs(np.mean(errors)) <= bound / 4.0


def test_sampled_percentile_has_the_rank_that_is_promised() -> None:
    """The share of all values outside the sampled 99 % range is within three standard errors of 1 %."""
    array = activations("laplace", 800_000).reshape(8, -1)
    seen = Seen(every="sampled")
    seen.update(array, 8)
    low, high = percentile_range(seen.histogram, seen.extremes.range(), 99.0)
    near = np.count_nonzero((np.abs(array - low) < seen.histogram.bin_width) | (np.abs(array - high) < 2e-2))
    outside = np.count_nonzero((array < low) | (array > high)) / array.size
    assert abs(outside - 0.01) <= 3.0 * np.sqrt(0.01 * 0.99 / 100_000) + near / array.size


def test_memory_does_not_grow_with_batches() -> None:
    """After a warm-up, a hundred more batches leave no more memory allocated than a few kilobytes."""
    seen = Seen(every="sampled")
    rng = np.random.default_rng(0)
    batch = rng.standard_normal((4, 20_000)).astype(np.float32)
    for _ in range(200):
        seen.update(batch, 4)
    _ = seen.histogram
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100):
        seen.update(batch, 4)
    _ = seen.histogram
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 64 * 1024
