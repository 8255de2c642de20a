"""The scenarios, driven by work whose times are known."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice import endurance, scenarios, timing
from targets.ondevice.scenarios import Limits, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable

MS = 1_000_000


class _Clock:
    """A clock that only advances by work, by sleep, and by 1 microsecond a look (so that spinning ends)."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def sleep(self, length_s: float) -> None:
        assert length_s > 0
        self.now_ns += round(length_s * 1e9)

    def work(self, duration_ns: Callable[[int], int]) -> Callable[[int], None]:
        def call(index: int) -> None:
            self.now_ns += duration_ns(index)

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    return _patched(monkeypatch)


def _patched(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    fake = _Clock()
    monkeypatch.setattr(scenarios.time, "perf_counter_ns", fake)
    monkeypatch.setattr(scenarios.time, "sleep", fake.sleep)
    monkeypatch.setattr(timing, "clock_overhead_ns", lambda: 100)
    monkeypatch.setattr(endurance, "clock_overhead_ns", lambda: 100)
    return fake


def _paced(clock: _Clock, durations: list[int], period_ns: int) -> dict[str, Any]:
    limits = Limits(warmup_s=0, min_iterations=len(durations), min_s=0, cap_s=1000)
    return scenarios.paced(clock.work(lambda i: durations[i]), period_ns, limits)


def test_a_stall_is_inherited_by_all_that_queue_behind(clock: _Clock) -> None:
    """One stall of 95 ms at a period of 10 ms: each late frame starts later than due, and its latency says so."""
    durations = [4 * MS] * 10 + [95 * MS] + [4 * MS] * 30
    report = _paced(clock, durations, 10 * MS)
    raw = np.array(report["raw"]) / MS
    expected = [4.0] * 10 + [95.0] + [max(4.0, 95.0 - 6.0 * k) for k in range(1, 31)]
    np.testing.assert_allclose(raw, expected, atol=0.1)
    assert report["scenario_result"]["late_n"] == 15  # 89, 83, ... 5 ms: each began after it was due
    assert report["scenario_result"]["latency_from_schedule"] is True
    assert report["max_ns"] >= 95 * MS
    assert report["median_ns"] == pytest.approx(4 * MS, rel=0.05)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(10, 40 * MS), min_size=2, max_size=25), st.integers(1 * MS, 20 * MS))
def test_paced_latency_is_that_of_a_queue(durations: list[int], period_ns: int) -> None:
    """Property: latencies from the schedule follow Lindley's recursion w' = max(0, w + s - period), plus service."""
    with pytest.MonkeyPatch.context() as patch:
        report = _paced(_patched(patch), durations, period_ns)
    wait, expected = 0, []
    for duration in durations:
        expected.append(wait + duration)
        wait = max(0, wait + duration - period_ns)
    np.testing.assert_allclose(report["raw"], expected, atol=8000 * len(durations))


def test_the_lead_of_a_paced_run_is_not_recorded(clock: _Clock) -> None:
    """Frames of the warm-up length run before the recorded ones, at the same pace, and count nowhere."""
    calls: list[int] = []
    limits = Limits(warmup_s=0.1, min_iterations=5, min_s=0, cap_s=10)
    report = scenarios.paced(calls.append, 10 * MS, limits)
    assert report["n"] == 5
    assert report["scenario_result"]["lead_n"] == 10
    assert len(calls) == 15


def test_throughput_of_a_bimodal_engine_is_count_by_time(clock: _Clock) -> None:
    """Nine calls of 1 ms to one of 91 ms: 100 calls a second, where the inverse median would promise 1000."""
    call = clock.work(lambda i: 91 * MS if i % 10 == 9 else MS)
    report = scenarios.throughput([call], 1, Limits(min_iterations=100, min_s=0, cap_s=100))
    result = report["scenario_result"]
    assert result["inferences"] == 100
    assert result["wall_ns"] == pytest.approx(1000 * MS, rel=0.01)
    assert result["ips"] == pytest.approx(100, rel=0.01)
    assert 1e9 / report["median_ns"] > 900


def test_throughput_counts_samples_of_a_batch(clock: _Clock) -> None:
    """A call on a batch of 8 in 2 ms is 4000 inferences a second."""
    report = scenarios.throughput([clock.work(lambda _: 2 * MS)], 8, Limits(min_iterations=50, min_s=0, cap_s=10))
    assert report["scenario_result"]["inferences"] == 400
    assert report["scenario_result"]["ips"] == pytest.approx(4000, rel=0.01)


def test_streams_run_at_the_same_time() -> None:
    """Two streams that each wait 20 ms a call do their calls in about the time of one, and all calls are counted."""
    limits = Limits(min_iterations=10, min_s=0, cap_s=60)
    report = scenarios.throughput([lambda _: time.sleep(0.02)] * 2, 1, limits)
    result = report["scenario_result"]
    assert result["inferences"] == report["n"] == 10
    assert result["concurrency"] == 2
    assert result["wall_ns"] < report["samples_sum_ns"]  # they overlapped
    assert result["ips"] == pytest.approx(10e9 / result["wall_ns"])


def test_a_fault_in_a_stream_is_the_fault_of_the_run() -> None:
    """An engine that fails in one of several streams fails the run; it is not a lower throughput."""

    def fail(_: int) -> None:
        raise RuntimeError("engine")

    with pytest.raises(RuntimeError, match="engine"):
        scenarios.throughput([lambda _: None, fail], 1, Limits(min_iterations=4, min_s=0, cap_s=5))


def test_sustained_sees_when_it_was_throttled(clock: _Clock) -> None:
    """An engine that slows by 30 % after 200 of 600 s: both minutes and the moment are reported."""
    call = clock.work(lambda _: 100 * MS if clock.now_ns < 200e9 else 130 * MS)
    report = endurance.sustained(call, 600, 100 * MS)
    result = report["scenario_result"]
    assert result["first_minute_median_ns"] == pytest.approx(100 * MS, rel=0.001)
    assert result["last_minute_median_ns"] == pytest.approx(130 * MS, rel=0.001)
    assert result["throttled_after_s"] == pytest.approx(200, abs=10)
    assert report["loop_wall_ns"] >= 600e9
    assert report["raw_stride"] == 1


def test_a_short_hiccup_is_no_throttling(clock: _Clock) -> None:
    """One slow window that recovers is not throttling."""
    call = clock.work(lambda _: 300 * MS if 300e9 < clock.now_ns < 309e9 else 100 * MS)
    assert endurance.sustained(call, 600, 100 * MS)["scenario_result"]["throttled_after_s"] is None


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 200))
def test_sustained_keeps_evenly_when_there_are_too_many(count: int) -> None:
    """Property: over the room every n-th sample of all is kept, from the first; the sum counts them all."""
    with pytest.MonkeyPatch.context() as patch:
        clock = _patched(patch)
        lengths = [(10 + i) * MS for i in range(count)]
        calls = clock.work(lambda i: lengths[i])
        total_s = (sum(lengths) - MS) / 1e9
        report = endurance.sustained(calls, total_s, 10 * MS, room=16)
    stride = report["raw_stride"]
    assert len(report["raw"]) <= 16
    assert stride & (stride - 1) == 0
    done = report["scenario_result"]["inferences"]
    np.testing.assert_allclose(report["raw"], lengths[:done:stride], atol=3000)
    assert report["samples_sum_ns"] == pytest.approx(sum(lengths[:done]), rel=0.01)


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(),
        Scenario(kind="paced", period_ns=MS),
        Scenario(kind="throughput"),
        Scenario(kind="sustained", duration_s=0.05),
    ],
)
def test_every_scenario_reports_the_same_figures(scenario: Scenario) -> None:
    """All scenarios give the same fields, so that no reader has to know which one it was."""
    limits = Limits(warmup_s=0, min_iterations=5, min_s=0, cap_s=5)
    report = scenarios.run_scenario(scenario, [lambda _: time.sleep(0.001)], expected_ns=MS, limits=limits)
    plain = scenarios.run_scenario(Scenario(), [lambda _: time.sleep(0.001)], expected_ns=MS, limits=limits)
    assert set(report) - {"scenario_result"} == set(plain)
    assert report["n"] == len(report["raw"]) > 0
    assert report["calls"] >= report["n"]
    assert ("scenario_result" in report) == (scenario.kind != "latency")
