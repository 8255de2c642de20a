"""The timed loop: warm-up, then at least so many iterations and so many seconds, every sample kept in nanoseconds."""

from __future__ import annotations

import array
import contextlib
import gc
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from . import memory, system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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


def inner_loops(expected_ns: float, overhead_ns: int) -> int:
    """Calls in one sample: 1, or where a call is too short for the clock the power of two that takes 1 ms."""
    inner = 1
    if expected_ns < _OVERHEAD_FACTOR * overhead_ns:
        while inner * expected_ns < _RAW_SAMPLE_NS:
            inner *= 2
    return inner


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the garbage collector off; it is on again afterwards, whatever happened."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


class Witness:
    """What the kernel counted while something was timed: made just before, asked just after."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._pressure, self._steal = system.cpu_pressure(root), system.steal_ticks(root)
        self._switches, self._faults = system.involuntary_switches(), memory.faults()
        self._cpu_ns = time.process_time_ns()

    def report(self) -> dict[str, Any]:
        """CPU time in ns, involuntary context switches, steal ticks, page faults since; CPU pressure then and now."""
        cpu_ns = time.process_time_ns() - self._cpu_ns
        minor, major = memory.faults()
        return {
            "cpu_ns": cpu_ns,
            "invol_ctx": _difference(system.involuntary_switches(), self._switches),
            "steal_ticks": _difference(system.steal_ticks(self._root), self._steal),
            "psi_before": self._pressure,
            "psi_after": system.cpu_pressure(self._root),
            "minor_faults": _difference(minor, self._faults[0]),
            "major_faults": _difference(major, self._faults[1]),
        }


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
    call: Callable[[int], None],
    *,
    expected_ns: float,
    min_iterations: int,
    min_s: float,
    cap_s: float,
    root: str = "/",
) -> dict[str, Any]:
    """Runs ``call(0)``, ``call(1)``, ... and times each, with the garbage collector off.

    Args:
        call: The work; it gets the running number of the call.
        expected_ns: What one call takes, from the warm-up; decides the length of the inner loop.
        min_iterations: At least this many samples ...
        min_s: ... and at least this many seconds ...
        cap_s: ... but no more than this many seconds.
        root: Where /proc is read.

    Returns:
        ``raw`` (nanoseconds of each sample of ``inner_loops`` calls), their summary per call, and the conditions;
        ``calls``: the calls of the stream that made fewest.
    """
    overhead = clock_overhead_ns()
    inner = inner_loops(expected_ns, overhead)
    raw = array.array("q", bytes(8 * MAX_SAMPLES))
    min_ns, cap_ns = int(min_s * 1e9), int(cap_s * 1e9)
    clock = time.perf_counter_ns
    with no_collection():
        witness = Witness(root)
        count = calls = 0
        begin = clock()
        while True:
            start = clock()
            for _ in range(inner):
                call(calls)
                calls += 1
            now = clock()
            raw[count] = now - start
            count += 1
            spent = now - begin
            if (spent >= min_ns and count >= min_iterations) or spent >= cap_ns or count == MAX_SAMPLES:
                break
        seen = witness.report()
    samples = list(raw[:count])
    report = summarise(samples, inner)
    report.update(seen, calls=calls, loop_wall_ns=now - begin, overhead_ns=overhead, raw=samples, raw_stride=1)
    return report


def scenario_report(
    samples: list[int], seen: dict[str, Any], wall_ns: int, result: dict[str, Any], inner: int = 1
) -> dict[str, Any]:
    """The report of a scenario: as `timed_loop`, with ``scenario_result``.

    Args:
        samples: Nanoseconds of each raw sample, in order.
        seen: From `Witness.report`, with ``calls``.
        wall_ns: From the first start to the last end.
        result: What this scenario is about.
        inner: Calls in a raw sample.
    """
    report = summarise(samples, inner)
    report.update(seen, loop_wall_ns=wall_ns, overhead_ns=clock_overhead_ns(), raw=samples, raw_stride=1)
    report["scenario_result"] = result
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
