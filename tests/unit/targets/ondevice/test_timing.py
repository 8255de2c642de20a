"""The timed loop, driven by work whose times are known."""

from __future__ import annotations

import gc
import mmap
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice import timing

if TYPE_CHECKING:
    from collections.abc import Callable


class _Clock:
    """A clock that advances only when the work says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    fake = _Clock()
    monkeypatch.setattr(timing.time, "perf_counter_ns", fake)
    monkeypatch.setattr(timing, "clock_overhead_ns", lambda: 100)
    return fake


def _work(clock: _Clock, duration_ns: Callable[[int], int]) -> Callable[[int], None]:
    def call(index: int) -> None:
        clock.now_ns += duration_ns(index)

    return call


def test_samples_are_the_times_of_the_calls(clock: _Clock) -> None:
    """Every call is timed, in order, until both the count and the time are reached."""
    work = _work(clock, lambda i: 1_000_000 + 1000 * i)
    report = timing.timed_loop(work, expected_ns=1e6, min_iterations=20, min_s=0.0, cap_s=10)
    assert report["raw"] == [1_000_000 + 1000 * i for i in range(20)]
    assert report["loop_wall_ns"] == sum(report["raw"]) == report["samples_sum_ns"]
    longer = timing.timed_loop(work, expected_ns=1e6, min_iterations=20, min_s=0.1, cap_s=10)
    assert longer["loop_wall_ns"] >= 1e8
    assert longer["n"] > 20


def test_the_cap_ends_a_slow_engine(clock: _Clock) -> None:
    """An engine too slow for the count is ended by the cap, and says how many samples it has."""
    report = timing.timed_loop(_work(clock, lambda _: 10**9), expected_ns=1e9, min_iterations=100, min_s=1, cap_s=3)
    assert report["n"] == 3


def test_short_calls_are_timed_in_batches(clock: _Clock) -> None:
    """Below 50 times the clock's cost the inner loop doubles until a sample takes 1 ms; numbers stay per call."""
    report = timing.timed_loop(_work(clock, lambda _: 1000), expected_ns=1000, min_iterations=5, min_s=0, cap_s=1)
    assert report["inner_loops"] == 1024
    assert report["of_batches"]
    assert report["median_ns"] == 1000
    assert report["raw"] == [1_024_000] * 5


def test_warm_up_reaches_count_and_time(clock: _Clock) -> None:
    """The warm-up runs the count and the time, whichever is longer, and never beyond its cap."""
    work = _work(clock, lambda _: 10_000_000)
    assert len(timing.warm_up(work, min_iterations=10, min_s=0.0, cap_s=5)) == 10
    assert len(timing.warm_up(work, min_iterations=10, min_s=0.5, cap_s=5)) == 50
    assert len(timing.warm_up(work, min_iterations=10, min_s=0.5, cap_s=0.05)) == 5


def test_the_garbage_collector_is_on_again(clock: _Clock) -> None:
    """After the loop, and after a failure inside it, the garbage collector runs as before."""

    def fail(_: int) -> None:
        assert not gc.isenabled()
        raise RuntimeError("engine")

    with pytest.raises(RuntimeError):
        timing.timed_loop(fail, expected_ns=1e6, min_iterations=5, min_s=0, cap_s=1)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_outliers_are_seen() -> None:
    """Single spikes show in the outlier counts; nothing is removed."""
    rng = np.random.default_rng(0)
    calm = rng.normal(10_000, 100, 1000)
    calm[[10, 500]] = 50_000
    report = timing.summarise([int(v) for v in calm], 1)
    assert report["outliers"]["severe"] == 2
    assert report["max_ns"] == 50_000
    assert report["n"] == 1000
    assert abs(report["rho1"]) < 0.15


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200), st.sampled_from([1, 2, 8]))
def test_summary_agrees_with_numpy(samples: list[int], inner: int) -> None:
    """Property: percentiles are ordered and numpy's, the sum is exact, the autocorrelation is one."""
    report = timing.summarise(samples, inner)
    ordered = [report[key] for key in ("min_ns", "median_ns", "p90_ns", "p95_ns", "p99_ns", "max_ns")]
    assert ordered == sorted(ordered)
    assert report["median_ns"] == round(float(np.median(np.array(samples) / inner)))
    assert report["samples_sum_ns"] == sum(samples)
    assert -1.0 <= report["rho1"] <= 1.0


def test_page_faults_of_the_loop_are_counted() -> None:
    """Memory touched for the first time inside the loop shows as minor page faults, at least one a page."""
    size = 16 << 20

    def touch(_: int) -> None:
        with mmap.mmap(-1, size) as fresh:
            fresh[:: mmap.PAGESIZE] = bytes(size // mmap.PAGESIZE)

    report = timing.timed_loop(touch, expected_ns=1e9, min_iterations=3, min_s=0, cap_s=60)
    assert report["minor_faults"] >= 3 * (size // (2 << 20))  # a page may be as large as 2 MiB
    assert report["major_faults"] >= 0
    assert report["calls"] == 3
