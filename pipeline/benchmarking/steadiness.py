"""Whether the iterations of one process had reached a steady state: change points, levels, and one of four classes.

After Barrett et al., "Virtual machine warmup blows hot and cold" (OOPSLA 2017, arXiv 1602.00602, section 4): change
points of mean and variance by PELT (Killick, Fearnhead and Eckley, JASA 107, 2012) with the penalty 15 ln n, here on
logarithms of latency, so that levels are compared by ratio.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["flat", "warmup", "slowdown", "no_steady_state"]

EQUAL_RATIO: Final = 0.02  # levels within 2 % of each other are the same level
MIN_SEGMENT: Final = 10
_PENALTY: Final = 15.0  # times ln n, for each change point
_MAX_PLACES: Final = 400  # where a change may be looked for, evenly spread: a search takes milliseconds at any length
_SMALLEST_SD: Final = 1e-3  # scatter below 0.1 % is the clock's, not the engine's
_FENCE: Final = 3.0  # Tukey's outer fence, in inter-quartile ranges
_NEIGHBOURS: Final = 15  # what lasts for 8 samples outvotes them, hence every segment does, and no outlier
_STEADY_SHARE: Final = 0.25  # the last level must hold for a quarter of the run (the source: 500 of 2000 iterations)
_AWAY_SHARE: Final = 0.10  # a level that was left and came back: up to a tenth is a disturbance, more is unrest


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """What one process did over its iterations.

    Attributes:
        kind: ``flat``: one level. ``warmup``: slower before it settled. ``slowdown``: faster before it settled.
            ``no_steady_state``: the last level is short, or levels alternate.
        segments: ``(start, end, level_ns)`` of each stretch of one level, ``end`` excluded, in order and without gaps.
        steady_from: The first sample of the last level; the first sample of all without a steady state.
    """

    kind: Kind
    segments: tuple[tuple[int, int, float], ...]
    steady_from: int


def classify(samples_ns: Sequence[float]) -> Steadiness:
    """The class of one process.

    Single outliers decide nothing: the search sees them drawn in to Tukey's outer fences around the median of their
    neighbours. Below 20 samples there is one segment, since none may be shorter than 10.

    Args:
        samples_ns: Latency of each sample in order, positive.

    Raises:
        ValueError: There is no sample, or one is not a positive finite number.
    """
    values = np.asarray(samples_ns, dtype=np.float64)  # (n,)
    if values.size == 0 or not bool(np.all(np.isfinite(values))) or float(values.min()) <= 0:
        raise ValueError("a class needs at least one sample, all positive and finite")
    logs = np.log(values)
    found = change_points(
        _without_outliers(logs), _PENALTY * math.log(max(2, values.size)), step=-(-values.size // _MAX_PLACES)
    )
    bounds = _merged(logs, [0, *found, values.size])
    levels = [_level(logs[start:end]) for start, end in itertools.pairwise(bounds)]
    kind, steady_from = _kind(bounds, levels)
    segments = tuple(zip(bounds, bounds[1:], (math.exp(level) for level in levels), strict=False))
    return Steadiness(kind=kind, segments=segments, steady_from=steady_from)


def change_points(values: np.ndarray, penalty: float, *, step: int = 1) -> list[int]:
    """The least costly division into Gaussian segments, each with its own mean and variance (PELT).

    Args:
        values: The series, shape (n,).
        penalty: Cost of each change point, on the scale of -2 ln likelihood.
        step: Changes are looked for at every ``step``-th sample.

    Returns:
        The first index of each segment but the first.
    """
    centred = values - values.mean()
    places = np.append(np.arange(0, len(values), step), len(values))  # (p + 1,)
    sums, squares = _running(centred)[places], _running(centred * centred)[places]
    best = np.full(len(places), math.inf)
    best[0] = -penalty
    before = np.zeros(len(places), dtype=np.intp)
    candidates = np.zeros(1, dtype=np.intp)
    fresh = 1
    for end in range(1, len(places)):
        if places[end] < MIN_SEGMENT:
            continue
        first = fresh
        while places[end] - places[fresh] >= MIN_SEGMENT:
            fresh += 1
        candidates = np.append(candidates, np.arange(first, fresh))
        length = places[end] - places[candidates]
        mean = (sums[end] - sums[candidates]) / length
        variance = (squares[end] - squares[candidates]) / length - mean * mean
        cost = best[candidates] + length * np.log(np.maximum(variance, _SMALLEST_SD**2))
        chosen = int(np.argmin(cost))
        best[end], before[end] = cost[chosen] + penalty, candidates[chosen]
        candidates = candidates[cost <= best[end]]
    found = []
    end = int(before[-1])
    while end > 0:
        found.append(int(places[end]))
        end = int(before[end])
    return found[::-1]


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate(([0.0], np.cumsum(values)))


def _without_outliers(logs: np.ndarray) -> np.ndarray:
    """The values with those far from the median of their 15 neighbours moved towards it; steps and ramps stay."""
    padded = np.pad(logs, _NEIGHBOURS // 2, mode="symmetric")
    local = np.median(np.lib.stride_tricks.sliding_window_view(padded, _NEIGHBOURS), axis=1)  # (n,)
    quiet: np.ndarray = local + _fenced(logs - local)
    return quiet


def _fenced(logs: np.ndarray) -> np.ndarray:
    """The values with those beyond Tukey's outer fences moved to the fence."""
    low, high = np.percentile(logs, [25, 75])
    reach = _FENCE * max(float(high - low), _SMALLEST_SD)
    inside: np.ndarray = np.clip(logs, low - reach, high + reach)
    return inside


def _level(logs: np.ndarray) -> float:
    """A mean that outliers do not move; a median would jump between the modes of a bimodal series."""
    return float(_fenced(logs).mean())


def _merged(logs: np.ndarray, bounds: list[int]) -> list[int]:
    """The bounds without those between equal levels, the most equal pair first."""
    kept = list(bounds)
    while len(kept) > 2:  # noqa: PLR2004 - one segment has two bounds
        levels = [_level(logs[start:end]) for start, end in itertools.pairwise(kept)]
        steps = [abs(after - level) for level, after in itertools.pairwise(levels)]
        smallest = min(range(len(steps)), key=steps.__getitem__)
        if steps[smallest] > math.log1p(EQUAL_RATIO):
            break
        del kept[smallest + 1]
    return kept


def _kind(bounds: Sequence[int], levels: Sequence[float]) -> tuple[Kind, int]:
    """The class, and where the steady part begins."""
    n, last = bounds[-1], levels[-1]
    home = [abs(level - last) <= math.log1p(EQUAL_RATIO) for level in levels]
    first = home.index(True)
    away = sum(bounds[i + 1] - bounds[i] for i in range(first, len(levels)) if not home[i])
    if away > _AWAY_SHARE * n or n - bounds[first] < _STEADY_SHARE * n:
        return "no_steady_state", 0
    if first == 0:
        return "flat", 0
    return ("warmup" if min(levels[:first]) > last else "slowdown"), bounds[first]
