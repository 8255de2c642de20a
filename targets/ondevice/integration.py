"""From sensor readings to joules: counters that wrap, power integrated over time, windows cut out of both."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .sensors import Sensor


class Series(NamedTuple):
    """One sensor's readings in time.

    Attributes:
        times_ns: When, ascending (CLOCK_MONOTONIC).
        values: Joules so far of a counter (it starts at 0), else watts.
        counter: Which of the two.
        raw: The readings as they came, to see when the sensor was renewed.
    """

    times_ns: list[int]
    values: list[float]
    counter: bool
    raw: list[tuple[int, ...]]


def unwrap(readings: Sequence[int], wrap: int) -> list[int]:
    """A counter's readings as they would be had it never wrapped, counted from the first.

    Args:
        readings: Readings in order, less than one turn of the counter apart.
        wrap: The counter starts again at 0 after this value; 0 if it never does.
    """
    total, found = 0, []
    for i, value in enumerate(readings):
        if i:
            step = value - readings[i - 1]
            total += step if step >= 0 or not wrap else step + wrap
        found.append(total)
    return found


def to_series(rows: Sequence[Sequence[int]], *, counter: bool, wraps: Sequence[int] = ()) -> Series:
    """Readings ``(time_ns, part, part, ...)`` in microjoules or microwatts as one series in joules or watts."""
    times = [row[0] for row in rows]
    parts = [[row[i] for row in rows] for i in range(1, len(rows[0]))] if rows else []
    if counter:
        turns = [*wraps, *([0] * len(parts))]
        parts = [unwrap(part, turns[i]) for i, part in enumerate(parts)]
    sums = [sum(part[i] for part in parts) / 1e6 for i in range(len(rows))]
    return Series(times, sums, counter, [tuple(row[1:]) for row in rows])


def joules(series: Series, start_ns: int, end_ns: int) -> float | None:
    """Energy between two moments; None where the readings do not reach from one to the other.

    A counter is interpolated between its readings; power is integrated by the trapezoid rule, with the power at both
    ends interpolated.
    """
    times = series.times_ns
    if len(times) < 2 or not times[0] <= start_ns < end_ns <= times[-1]:  # noqa: PLR2004 - an interval has two ends
        return None
    if series.counter:
        return _at(series, end_ns) - _at(series, start_ns)
    first, last = bisect.bisect_right(times, start_ns), bisect.bisect_left(times, end_ns)
    points = [(start_ns, _at(series, start_ns))]
    points += [(times[i], series.values[i]) for i in range(first, last)]
    points.append((end_ns, _at(series, end_ns)))
    return sum(
        (points[i][0] - points[i - 1][0]) / 1e9 * (points[i][1] + points[i - 1][1]) / 2 for i in range(1, len(points))
    )


def _at(series: Series, moment_ns: int) -> float:
    """The value at a moment inside the series, by linear interpolation."""
    times, values = series.times_ns, series.values
    i = min(max(1, bisect.bisect_left(times, moment_ns)), len(times) - 1)
    width = times[i] - times[i - 1]
    share = (moment_ns - times[i - 1]) / width if width else 1.0
    return values[i - 1] + share * (values[i] - values[i - 1])


def updates(series: Series, start_ns: int, end_ns: int) -> int:
    """How often the sensor showed a new figure between two moments."""
    inside = [i for i in range(1, len(series.times_ns)) if start_ns <= series.times_ns[i] <= end_ns]
    return sum(series.raw[i] != series.raw[i - 1] for i in inside)


def mean_watts(series: Series) -> float | None:
    """Mean power over all of a series."""
    times = series.times_ns
    energy = joules(series, times[0], times[-1]) if len(times) > 1 else None
    return None if energy is None else energy / ((times[-1] - times[0]) / 1e9)


def series_of(samples: Sequence[dict[str, Any]], sensor: Sensor) -> Series:
    """One sensor's readings out of the sampler's lines."""
    rows = [sample["s"][sensor.name] for sample in samples if sensor.name in sample["s"]]
    return to_series(rows, counter=sensor.counter, wraps=sensor.wraps)
