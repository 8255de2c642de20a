"""A long run: every sample or evenly fewer of them, the first minute against the last, and when it was throttled."""

from __future__ import annotations

import array
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .timing import MAX_SAMPLES, Witness, clock_overhead_ns, inner_loops, no_collection, scenario_report

if TYPE_CHECKING:
    from collections.abc import Callable

_MINUTE_NS = 60_000_000_000
_WINDOW_NS = 10_000_000_000
_THROTTLED = 1.1  # a window is throttled when its median is this many times that of the first minute


def sustained(
    call: Callable[[int], None], duration_s: float, expected_ns: float, root: str = "/", room: int = MAX_SAMPLES
) -> dict[str, Any]:
    """Back to back for ``duration_s``; over ``room`` samples, every second, fourth, ... of all is kept, evenly.

    ``room`` is even. ``throttled_after_s`` is when the median of a window of 10 s (of a run below 2 minutes: a twelfth)
    rose over 1.1 times that of the first minute (of a short run: the first half), and stayed there in the next one.
    """
    inner = inner_loops(expected_ns, clock_overhead_ns())
    times, ends = (array.array("q", bytes(8 * room)) for _ in range(2))
    duration_ns, clock = int(duration_s * 1e9), time.perf_counter_ns
    calls = count = kept = total = 0
    stride = 1
    with no_collection():
        witness = Witness(root)
        begin = clock()
        while True:
            start = clock()
            for _ in range(inner):
                call(calls)
                calls += 1
            now = clock()
            total += now - start
            if count % stride == 0:
                if kept == room:
                    times[: room // 2], ends[: room // 2] = times[::2], ends[::2]
                    kept, stride = room // 2, stride * 2
                times[kept], ends[kept] = now - start, now - begin
                kept += 1
            count += 1
            if now - begin >= duration_ns:
                break
        seen = witness.report()
    seen["calls"] = calls
    result = _endurance(np.asarray(times[:kept]) / inner, np.asarray(ends[:kept]), now - begin)
    report = scenario_report(list(times[:kept]), seen, now - begin, dict(result, inferences=calls), inner)
    report.update(samples_sum_ns=total, raw_stride=stride)
    return report


def _endurance(times: np.ndarray, ends: np.ndarray, wall_ns: int) -> dict[str, Any]:
    """First minute against last, and when it was throttled, of times (ns per call) that ended at ``ends`` (ns)."""
    minute = min(_MINUTE_NS, wall_ns // 2)
    first = float(np.median(times[: max(1, int(np.searchsorted(ends, minute)))]))
    last = float(np.median(times[min(len(times) - 1, int(np.searchsorted(ends, wall_ns - minute))) :]))
    window = max(1, min(_WINDOW_NS, wall_ns // 12))
    after, slow_since = None, None
    numbers = ends // window
    for number in range(int(numbers[-1]) + 1):
        inside = times[numbers == number]
        if len(inside) == 0:
            continue
        if float(np.median(inside)) <= _THROTTLED * first:
            slow_since = None
        elif slow_since is None:
            slow_since = number
        elif after is None:
            after = slow_since * window / 1e9
    return {
        "first_minute_median_ns": round(first),
        "last_minute_median_ns": round(last),
        "throttled_after_s": after,
    }
