"""Steady, warming up, slowing down, or never settling: told apart, and seldom wrongly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarking.steadiness import MIN_SEGMENT, change_points, classify

N = 1000
AT = np.arange(N)
PROCESSES = 40


def _noise(rng: np.random.Generator, n: int = N, sigma: float = 0.02) -> np.ndarray:
    return 1e6 * np.exp(rng.normal(0, sigma, n))


def _autocorrelated(rng: np.random.Generator, n: int, rho: float) -> np.ndarray:
    values = rng.normal(size=n)
    for i in range(1, n):
        values[i] = rho * values[i - 1] + math.sqrt(1 - rho * rho) * values[i]
    return values


IID = {
    "lognormal 2 %": lambda rng, n: np.exp(rng.normal(0, 0.02, n)),
    "lognormal 30 %": lambda rng, n: np.exp(rng.normal(0, 0.3, n)),
    "with 1 % outliers": lambda rng, n: np.exp(rng.normal(0, 0.02, n) + (rng.random(n) < 0.01) * rng.exponential(1, n)),
    "with 5 % outliers": lambda rng, n: np.exp(rng.normal(0, 0.02, n) + (rng.random(n) < 0.05) * rng.exponential(1, n)),
    "Pareto tail": lambda rng, n: 1 + 0.02 * rng.pareto(1.5, n),
    "autocorrelated 0.3": lambda rng, n: np.exp(0.05 * _autocorrelated(rng, n, 0.3)),
    "autocorrelated 0.6": lambda rng, n: np.exp(0.05 * _autocorrelated(rng, n, 0.6)),
    "bimodal": lambda rng, n: np.exp(rng.normal(0, 0.01, n) + 0.2 * (rng.random(n) < 0.5)),
    "bimodal, one in ten": lambda rng, n: np.exp(rng.normal(0, 0.01, n) + 0.5 * (rng.random(n) < 0.1)),
    "on a coarse clock": lambda rng, n: np.round(np.exp(rng.normal(0, 0.02, n)) * 50) / 50,
}


@pytest.mark.parametrize("name", IID)
@pytest.mark.parametrize("n", [100, 700])
def test_steady_noise_is_flat(name: str, n: int) -> None:
    """False alarms on noise without a trend, however heavy its tail: at most 1 of 40 processes (seen: none)."""
    rng = np.random.default_rng(21)
    alarms = sum(classify(list(1e6 * IID[name](rng, n))).kind != "flat" for _ in range(PROCESSES))
    assert alarms <= 1


@pytest.mark.parametrize("step", [1.04, 1.1, 2.0])
def test_a_step_up_in_the_middle_is_a_slowdown(step: float) -> None:
    """From the middle on slower: `slowdown`, with both levels and the place of the step."""
    found = classify(list(_noise(np.random.default_rng(1)) * np.where(AT < N // 2, 1, step)))
    assert found.kind == "slowdown"
    assert [round(level / 1e6, 1) for _, _, level in found.segments] == [1.0, round(step, 1)]
    assert abs(found.steady_from - N // 2) <= 10
    assert found.segments[0][1] == found.steady_from


@pytest.mark.parametrize("shape", ["ramp", "exponential", "step"])
def test_a_slow_start_is_a_warmup(shape: str) -> None:
    """Slower first, then settled: `warmup`; the steady part begins after the ramp and holds one level to the end."""
    extra = {
        "ramp": 0.5 * np.maximum(0, 1 - AT / 300),
        "exponential": 0.5 * np.exp(-AT / 100),
        "step": 0.3 * (AT < 60),
    }[shape]
    found = classify(list(_noise(np.random.default_rng(2)) * (1 + extra)))
    assert found.kind == "warmup"
    assert extra[found.steady_from] < 0.05
    assert found.steady_from <= 450
    assert found.segments[-1][2] == pytest.approx(1e6, rel=0.02)


@pytest.mark.parametrize("share", [0.03, 0.1, 0.2])
@pytest.mark.parametrize("sigma", [0.0, 0.0003, 0.002, 0.01])
def test_a_slow_start_of_a_quiet_engine_is_seen(sigma: float, share: float) -> None:
    """However little an engine scatters, and however short its warm-up: slow samples in a row are no outliers."""
    noise = _noise(np.random.default_rng(12), sigma=sigma)
    found = classify(list(noise * np.where(share * N > AT, 1.5, 1)))
    assert found.kind == "warmup"
    assert abs(found.steady_from - share * N) <= 3


def test_a_ramp_that_never_ends_has_no_steady_state() -> None:
    """Getting faster until the very end is no warm-up that is over."""
    assert classify(list(_noise(np.random.default_rng(3)) * (1.5 - 0.5 * AT / N))).kind == "no_steady_state"


@pytest.mark.parametrize("period", [100, 250])
def test_alternating_levels_are_no_steady_state(period: int) -> None:
    """A latency that goes to and fro between two levels has none to report."""
    levels = np.where(AT // period % 2, 1.0, 1.1)
    assert classify(list(_noise(np.random.default_rng(4)) * levels)).kind == "no_steady_state"


def test_a_short_last_level_is_no_steady_state() -> None:
    """What holds for the last tenth only was not shown to last."""
    assert classify(list(_noise(np.random.default_rng(5)) * np.where(AT < 900, 1, 1.2))).kind == "no_steady_state"


def test_a_short_disturbance_that_passes_is_flat() -> None:
    """A level that is left for a twentieth of the run and comes back is a disturbance; its segment is shown."""
    found = classify(list(_noise(np.random.default_rng(6)) * np.where((AT >= 400) & (AT < 450), 2, 1)))
    assert (found.kind, found.steady_from) == ("flat", 0)
    assert len(found.segments) == 3


def test_levels_within_2_percent_are_equal() -> None:
    """A step of 1.5 % is seen by the search and still one level; one of 3 % is two."""
    quiet = _noise(np.random.default_rng(7), sigma=0.002)
    assert classify(list(quiet * np.where(AT < 500, 1, 1.015))).segments[0][:2] == (0, N)
    assert classify(list(quiet * np.where(AT < 500, 1, 1.03))).kind == "slowdown"


def test_single_outliers_decide_nothing() -> None:
    """One sample a thousand times slower, anywhere, changes neither class nor level."""
    noisy = _noise(np.random.default_rng(8))
    constant = np.full(N, 1e6)
    for calm, place in itertools.product((noisy, constant), (0, 500, N - 1)):
        hit = calm.copy()
        hit[place] *= 1000
        found = classify(list(hit))
        assert found.kind == "flat"
        assert found.segments[0][2] == pytest.approx(1e6, rel=0.01)


def test_long_runs_are_classified_too() -> None:
    """200,000 samples, the most that a run keeps: the step is found to within two of the places that are looked at."""
    n = 200_000
    values = _noise(np.random.default_rng(9), n) * np.where(np.arange(n) < n // 2, 1, 1.1)
    found = classify(list(values))
    assert found.kind == "slowdown"
    assert abs(found.steady_from - n // 2) <= 2 * n // 400


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=120))
def test_segments_cover_every_sample_once(samples: list[float]) -> None:
    """Property: whatever the samples, segments follow one another from 0 to n; only a single one may be below 10."""
    found = classify(samples)
    bounds = [found.segments[0][0], *(end for _, end, _ in found.segments)]
    assert bounds[0] == 0
    assert bounds[-1] == len(samples)
    assert [start for start, _, _ in found.segments] == bounds[:-1]
    assert len(found.segments) == 1 or all(end - start >= MIN_SEGMENT for start, end, _ in found.segments)
    assert found.steady_from in {start for start, _, _ in found.segments}
    assert all(min(samples) * 0.999 <= level <= max(samples) * 1.001 for _, _, level in found.segments)


def _cost(values: np.ndarray) -> float:
    return len(values) * math.log(max(float(values.var()), 1e-6))


@pytest.mark.parametrize("seed", range(6))
def test_the_search_is_as_good_as_trying_every_division(seed: int) -> None:
    """PELT's pruned search costs no more than the best of all divisions into up to three segments."""
    rng = np.random.default_rng(seed)
    n, penalty = 60, 15 * math.log(60)
    values = rng.normal(0, 0.02, n) + np.where(np.arange(n) < 25, 0.2, 0) + np.where(np.arange(n) > 44, 0.3, 0)
    bounds = [0, *change_points(values, penalty), n]
    ours = sum(_cost(values[a:b]) for a, b in itertools.pairwise(bounds)) + penalty * (len(bounds) - 2)
    ends = range(MIN_SEGMENT, n - MIN_SEGMENT + 1)
    divisions = [
        [0, n],
        *([0, i, n] for i in ends),
        *([0, i, j, n] for i in ends for j in ends if j - i >= MIN_SEGMENT),
    ]
    best = min(sum(_cost(values[a:b]) for a, b in itertools.pairwise(d)) + penalty * (len(d) - 2) for d in divisions)
    assert ours <= best + 1e-6


@pytest.mark.parametrize("samples", [[], [0.0], [1.0, math.nan], [1.0, -1.0]])
def test_what_is_no_latency_is_refused(samples: list[float]) -> None:
    """No sample, or one that is no positive finite number, is an error."""
    with pytest.raises(ValueError, match="at least one sample"):
        classify(samples)
