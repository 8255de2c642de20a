"""The ways to load an engine: back to back, at a fixed pace, as much as possible, for a long time."""

from __future__ import annotations

import array
import math
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .endurance import sustained
from .timing import MAX_SAMPLES, Witness, no_collection, scenario_report, timed_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SPIN_NS = 200_000  # a sleep ends this much before the scheduled time: waking up is not the engine's latency


class Limits(NamedTuple):
    """How long to warm up and to measure."""

    warmup_iterations: int = 10
    warmup_s: float = 0.5
    warmup_cap_s: float = 10.0
    min_iterations: int = 100
    min_s: float = 1.5
    cap_s: float = 30.0


class Scenario(NamedTuple):
    """How an engine is used: ``latency``, ``paced``, ``throughput``, ``sustained`` or ``cold``."""

    kind: str = "latency"
    period_ns: int | None = None
    batch: int = 1
    concurrency: int = 1
    duration_s: float | None = None


def run_scenario(
    scenario: Scenario, calls: Sequence[Callable[[int], None]], *, expected_ns: float, limits: Limits, root: str = "/"
) -> dict[str, Any]:
    """Runs calls as the scenario says (all but ``cold``, which has no loop).

    Args:
        scenario: What to do.
        calls: One call for each concurrent stream; it gets the running number of the call in its stream.
        expected_ns: What one call takes, from the warm-up.
        limits: How long.
        root: Where /proc is read.

    Returns:
        As `timing.timed_loop`, and for all but ``latency`` with ``scenario_result``.
    """
    if scenario.period_ns is not None:
        return paced(calls[0], scenario.period_ns, limits, root)
    if scenario.duration_s is not None:
        return sustained(calls[0], scenario.duration_s, expected_ns, root)
    if scenario.kind == "throughput":
        return throughput(calls, scenario.batch, limits, root)
    return timed_loop(
        calls[0],
        expected_ns=expected_ns,
        min_iterations=limits.min_iterations,
        min_s=limits.min_s,
        cap_s=limits.cap_s,
        root=root,
    )


def paced(call: Callable[[int], None], period_ns: int, limits: Limits, root: str = "/") -> dict[str, Any]:
    """One call every ``period_ns``; latency counts from when a call was due, so a stall delays all that queue behind.

    Frames of ``limits.warmup_s`` go before, unrecorded, so that the CPU's frequency settles to the pace. ``late_n``
    frames could not start when they were due.
    """
    lead_n = math.ceil(limits.warmup_s * 1e9 / period_ns)
    with no_collection():
        if lead_n:
            _frames(call, period_ns, Limits(min_iterations=lead_n, min_s=0, cap_s=limits.warmup_cap_s))
        witness = Witness(root)
        raw, late, wall_ns = _frames(call, period_ns, limits)
        seen = witness.report()
    seen["calls"] = len(raw)
    result = {"period_ns": period_ns, "late_n": late, "lead_n": lead_n, "latency_from_schedule": True}
    return scenario_report(raw, seen, wall_ns, result)


def _frames(call: Callable[[int], None], period_ns: int, limits: Limits) -> tuple[list[int], int, int]:
    """Latencies in ns from when each frame was due, how many started late, and the wall time in ns."""
    raw = array.array("q", bytes(8 * MAX_SAMPLES))
    min_ns, cap_ns = int(limits.min_s * 1e9), int(limits.cap_s * 1e9)
    clock, sleep = time.perf_counter_ns, time.sleep
    count = late = 0
    begin = due = now = clock()
    while True:
        if now > due:
            late += 1
        elif due - now > _SPIN_NS:
            sleep((due - now - _SPIN_NS) / 1e9)
        while clock() < due:
            pass
        call(count)
        now = clock()
        raw[count] = now - due
        count += 1
        due += period_ns
        spent = now - begin
        if (spent >= min_ns and count >= limits.min_iterations) or spent >= cap_ns or count == MAX_SAMPLES:
            return list(raw[:count]), late, spent


def throughput(calls: Sequence[Callable[[int], None]], batch: int, limits: Limits, root: str = "/") -> dict[str, Any]:
    """All streams at the same time, each back to back; inferences by the wall time of all of them together."""
    streams = [_Stream(call, limits, len(calls)) for call in calls]
    with no_collection():
        witness = Witness(root)
        if len(streams) == 1:
            streams[0].run()
        else:
            barrier = threading.Barrier(len(streams))
            threads = [threading.Thread(target=stream.run, args=(barrier,)) for stream in streams]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        seen = witness.report()
    for stream in streams:
        if stream.error is not None:
            raise stream.error
    seen["calls"] = min(stream.count for stream in streams)
    starts = np.concatenate([np.asarray(stream.starts[: stream.count]) for stream in streams])
    times = np.concatenate([np.asarray(stream.times[: stream.count]) for stream in streams])
    wall = max(stream.end for stream in streams) - min(stream.begin for stream in streams)
    inferences = batch * len(times)
    result = {
        "batch": batch,
        "concurrency": len(streams),
        "inferences": inferences,
        "wall_ns": wall,
        "ips": inferences * 1e9 / max(1, wall),
    }
    return scenario_report([int(value) for value in times[np.argsort(starts, kind="stable")]], seen, wall, result)


class _Stream:
    """One stream of back-to-back calls, with the start and length of each in nanoseconds."""

    def __init__(self, call: Callable[[int], None], limits: Limits, streams: int) -> None:
        self.call, self.limits, self.share = call, limits, math.ceil(limits.min_iterations / streams)
        self.room = MAX_SAMPLES // streams
        self.starts, self.times = (array.array("q", bytes(8 * self.room)) for _ in range(2))
        self.begin = self.end = self.count = 0
        self.error: Exception | None = None

    def run(self, barrier: threading.Barrier | None = None) -> None:
        try:
            if barrier is not None:
                barrier.wait()
            self._run()
        except Exception as error:  # noqa: BLE001 - carried to the main thread, which raises it
            self.error = error

    def _run(self) -> None:
        clock, call, starts, times = time.perf_counter_ns, self.call, self.starts, self.times
        min_ns, cap_ns = int(self.limits.min_s * 1e9), int(self.limits.cap_s * 1e9)
        count = 0
        self.begin = begin = clock()
        while True:
            start = clock()
            call(count)
            now = clock()
            starts[count], times[count] = start, now - start
            count += 1
            spent = now - begin
            if (spent >= min_ns and count >= self.share) or spent >= cap_ns or count == self.room:
                break
        self.end, self.count = now, count
