"""The timed loop: warm-up, then at least so many iterations and so many seconds, every sample kept in nanoseconds."""

from __future__ import annotations

import array
import gc
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from . import system

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_SAMPLES = 200_000
_RAW_SAMPLE_NS = 1_000_000  # an inner loop is doubled until a raw sample takes 1 ms
_OVERHEAD_FACTOR = 50  # below this many times the clock's own cost a single call is not measurable


def clock_overhead_ns() -> int:
    """What reading the clock twice around an empty call costs, in nanoseconds (median of 1000)."""
    clock, nothing = time.perf_counter_ns, _nothing
    samples = []
    for i in range(1000):
        start = clock()
        nothing(i)
        samples.append(clock() - start)
    return max(1, int(np.median(samples)))


def _nothing(_index: int) -> None:
    pass


def warm_up(call: Callable[[int], None], *, min_iterations: int, min_s: float, cap_s: float) -> list[int]:
    """Times of warm-up calls, in nanoseconds: at least ``min_iterations`` and ``min_s``, at most ``cap_s``."""
    samples: list[int] = []
    begin = time.perf_counter_ns()
    while True:
        start = time.perf_counter_ns()
        call(len(samples))
        now = time.perf_counter_ns()
        samples.append(now - start)
        enough = len(samples) >= min_iterations and now - begin >= min_s * 1e9
        if enough or now - begin >= cap_s * 1e9 or len(samples) >= MAX_SAMPLES:
            return samples


def timed_loop(
    call: Callable[[int], None], *, expected_ns: float, min_iterations: int, min_s: float, cap_s: float
) -> dict[str, Any]:
    """Runs ``call(0)``, ``call(1)``, ... and times each, with the garbage collector off.

    Args:
        call: The work; it gets the running number of the call.
        expected_ns: What one call takes, from the warm-up; decides the length of the inner loop.
        min_iterations: At least this many samples ...
        min_s: ... and at least this many seconds ...
        cap_s: ... but no more than this many seconds.

    Returns:
        ``raw`` (nanoseconds of each sample of ``inner_loops`` calls), their summary per call, and the conditions.
    """
    overhead = clock_overhead_ns()
    inner = 1
    if expected_ns < _OVERHEAD_FACTOR * overhead:
        while inner * expected_ns < _RAW_SAMPLE_NS:
            inner *= 2
    raw = array.array("q", bytes(8 * MAX_SAMPLES))
    clock = time.perf_counter_ns
    gc.collect()
    gc.freeze()
    gc.disable()
    switches, pressure, steal = system.involuntary_switches(), system.cpu_pressure(), system.steal_ticks()
    cpu = time.process_time_ns()
    count = calls = 0
    begin = now = clock()
    try:
        while True:
            start = clock()
            for _ in range(inner):
                call(calls)
                calls += 1
            now = clock()
            raw[count] = now - start
            count += 1
            spent = now - begin
            if (count >= min_iterations and spent >= min_s * 1e9) or spent >= cap_s * 1e9 or count == MAX_SAMPLES:
                break
    finally:
        gc.enable()
        gc.unfreeze()
    cpu = time.process_time_ns() - cpu
    samples = list(raw[:count])
    report = summarise(samples, inner)
    report.update(
        loop_wall_ns=now - begin,
        cpu_ns=cpu,
        overhead_ns=overhead,
        invol_ctx=_difference(system.involuntary_switches(), switches),
        steal_ticks=_difference(system.steal_ticks(), steal),
        psi_before=pressure,
        psi_after=system.cpu_pressure(),
        raw=samples,
    )
    return report


def summarise(samples: Sequence[int], inner_loops: int) -> dict[str, Any]:
    """Numbers of one process, per call, in nanoseconds.

    Args:
        samples: Nanoseconds of each raw sample, in order.
        inner_loops: Calls in a raw sample.
    """
    values = np.asarray(samples, dtype=np.float64) / inner_loops
    median = float(np.median(values))
    p25, p75, p90, p95, p99 = (float(v) for v in np.percentile(values, [25, 75, 90, 95, 99]))
    spread = p75 - p25
    outside = np.maximum(values - p75, p25 - values)
    third = max(1, len(values) // 3)
    return {
        "n": len(values),
        "inner_loops": inner_loops,
        "of_batches": inner_loops > 1,
        "median_ns": round(median),
        "p90_ns": round(p90),
        "p95_ns": round(p95),
        "p99_ns": round(p99),
        "min_ns": round(float(values.min())),
        "max_ns": round(float(values.max())),
        "mean_ns": round(float(values.mean())),
        "mad_ns": round(float(np.median(np.abs(values - median)))),
        "iqr_ns": round(spread),
        "rho1": _lag1(values),
        "drift_ratio": float(np.median(values[-third:]) / max(1.0, float(np.median(values[:third])))),
        "outliers": {
            "mild": int(((outside > 1.5 * spread) & (outside <= 3 * spread)).sum()),
            "severe": int((outside > 3 * spread).sum()),
        },
        "samples_sum_ns": int(np.sum(np.asarray(samples, dtype=np.int64))),
    }


def _lag1(values: np.ndarray) -> float:
    """Lag-1 autocorrelation of the ranks (ranks, so that one huge outlier does not decide)."""
    if len(values) < 3:  # noqa: PLR2004 - a lag needs pairs
        return 0.0
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)
    ranks -= ranks.mean()
    power = float((ranks * ranks).sum())
    return float((ranks[1:] * ranks[:-1]).sum() / power) if power > 0 else 0.0


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
