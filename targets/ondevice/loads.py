"""Stretches of idling and of inferences whose energy is measured, with the times of the inferences in them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

SETTLE_S = 1.0  # worker threads may spin for about so long after the last inference
_KEPT = 2_000  # times kept of one window, about


class Span(NamedTuple):
    """A stretch of time and the inferences made in it.

    Attributes:
        start_ns: Its start (CLOCK_MONOTONIC).
        end_ns: Its end.
        n: Inferences in it.
        late_n: Those that could not start when they were due.
        samples_ns: Times of every ``stride``-th sample of inferences.
        waited_s: How long it was cooled down before.
        start_c: Temperature at its start.
    """

    start_ns: int
    end_ns: int
    n: int = 0
    late_n: int = 0
    samples_ns: tuple[int, ...] = ()
    waited_s: float = 0.0
    start_c: float | None = None

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e9


class Load(NamedTuple):
    """How a window is filled.

    Attributes:
        window_s: Its length, at least.
        period_ns: One call every so often; None: back to back.
        inner: Calls in a sample.
        stride: Every so many samples' time is kept.
    """

    window_s: float
    period_ns: int | None
    inner: int
    stride: int


def plan(window_s: float, period_ns: int | None, expected_ns: float, inner: int) -> Load:
    """A load whose windows keep about two thousand times each, evenly.

    Args:
        window_s: Length of a window.
        period_ns: One call every so often; None: back to back.
        expected_ns: What one call takes.
        inner: Calls in a sample; paced calls are always timed one by one.
    """
    inner = inner if period_ns is None else 1
    sample_ns = max(1.0, expected_ns * inner, period_ns or 0)
    return Load(window_s, period_ns, inner, max(1, math.ceil(window_s * 1e9 / sample_ns / _KEPT)))


def idle(idle_s: float) -> Span:
    """Does nothing, after the threads of the engine have come to rest."""
    time.sleep(min(SETTLE_S, idle_s / 10))
    start = time.monotonic_ns()
    time.sleep(idle_s)
    return Span(start, time.monotonic_ns())


def window(call: Callable[[int], None], load: Load) -> Span:
    """Inferences for as long as the load says, at least one."""
    if load.period_ns is None:
        return _back_to_back(call, load)
    return _paced(call, load, load.period_ns)


def _back_to_back(call: Callable[[int], None], load: Load) -> Span:
    clock, length = time.monotonic_ns, int(load.window_s * 1e9)
    count = samples = 0
    kept = []
    begin = now = clock()
    while not samples or now - begin < length:
        start = now
        for _ in range(load.inner):
            call(count)
            count += 1
        now = clock()
        if samples % load.stride == 0:
            kept.append(now - start)
        samples += 1
    return Span(begin, now, count, 0, tuple(kept))


def _paced(call: Callable[[int], None], load: Load, period_ns: int) -> Span:
    """One call every period; asleep in between, for waiting awake costs energy. Latency counts from when it was due."""
    clock, length = time.monotonic_ns, int(load.window_s * 1e9)
    late, kept = 0, []
    begin = now = clock()
    frames = max(1, -(-length // period_ns))
    for frame in range(frames):
        due = begin + frame * period_ns
        if now < due:
            time.sleep((due - now) / 1e9)
        elif now > due:
            late += 1
        call(frame)
        now = clock()
        if frame % load.stride == 0:
            kept.append(now - due)
    time.sleep(max(0, begin + frames * period_ns - now) / 1e9)
    return Span(begin, clock(), frames, late, tuple(kept))
