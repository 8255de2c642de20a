"""Ranges read from a histogram: percentile, least Kullback-Leibler divergence, least squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from calibration.histogram import BINS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.histogram import Histogram, Range

_MIDDLE: Final = BINS // 2
_CANDIDATES: Final = 160
_ENTROPY_LEVELS: Final = 128
_ENTROPY_STEP: Final = 4
_EMPTY: Final = 1e-4  # as ONNX Runtime smooths


def percentile_range(histogram: Histogram, seen: Range, percent: float) -> Range:
    """The range that leaves ``(100 - percent) / 2`` percent of the values outside on each side.

    Each end is within one bin width of the exact percentile of the histogram's values, and never outside ``seen``.
    """
    low, high = seen
    tail = (1.0 - percent / 100.0) / 2.0 * histogram.counts.sum()
    below = np.cumsum(histogram.counts)
    above = below[-1] - below
    edges = histogram.edges()
    left = edges[int(np.argmax(below > tail))]
    right = edges[int(np.argmax(above <= tail)) + 1]
    return min(max(low, float(left)), high), max(min(high, float(right)), low)


def entropy_range(histogram: Histogram, seen: Range) -> Range:
    """The range [-T, T], cut to ``seen``, whose 128 levels lose least information about the magnitudes.

    For every fourth T from the largest magnitude down to 128 bins: P = the magnitudes' bins below T, everything above
    added to the last; Q = the bins below T merged into 128 levels and spread evenly over the bins that were not empty.
    T minimises KL(P || Q); of equals, the largest. Migacz, 8-bit Inference with TensorRT, GTC 2017, slides 33-38; ONNX
    Runtime's ``quantization/calibrate.py`` does so on a signed histogram. Exact zeros are left out: every range
    represents them exactly, and after a Relu they would outweigh all else (NVIDIA's pytorch-quantization gives the
    whole first bin the count of the second for that reason).

    The divergence falls apart into sums over levels, so each T costs 128 differences of running sums.
    """
    low, high = seen
    bins = histogram.counts[_MIDDLE:] + histogram.counts[:_MIDDLE][::-1]
    bins[0] -= histogram.zeros
    filled = np.flatnonzero(bins)
    used = int(filled[-1]) + 1 if filled.size else 0
    if used <= _ENTROPY_LEVELS:  # every bin may have a level of its own
        return low, high
    ends = np.arange(used, max(_ENTROPY_LEVELS - 1, filled[0]), -_ENTROPY_STEP)
    losses = _divergences(bins[:used].astype(np.float64), ends)
    best = ends[int(np.argmin(losses))]
    threshold = float(best) * histogram.bin_width
    return min(max(low, -threshold), high), max(min(high, threshold), low)


def _divergences(bins: NDArray[np.float64], ends: NDArray[np.int64]) -> NDArray[np.float64]:
    """KL(P || Q) for each end; where the last bin of Q is empty and that of P is not, it counts as `_EMPTY` values.

    With b the bins below the end, r all that lies above, N everything, S and c the sum and the number of filled bins
    of a level: KL = [sum b log b - sum S log(S / c)] / N + log((N - r) / N), plus what r in the last bin adds.
    """
    total = bins.sum()
    sums, filled, entropy = (np.concatenate([[0.0], np.cumsum(v)]) for v in (bins, bins > 0.0, _xlogx(bins)))
    borders = -(-np.arange(_ENTROPY_LEVELS + 1)[None, :] * ends[:, None] // _ENTROPY_LEVELS)  # (ends, levels + 1)
    level_sums, level_filled = np.diff(sums[borders], axis=1), np.diff(filled[borders], axis=1)
    levels = _xlogx(level_sums) - level_sums * np.log(np.maximum(level_filled, 1.0))
    inside = sums[ends]
    rest, last = total - inside, bins[ends - 1]
    spread = level_sums[:, -1] / np.maximum(level_filled[:, -1], 1.0)
    outliers = _xlogx(last + rest) - _xlogx(last) - rest * np.log(np.where(last > 0.0, spread, _EMPTY))
    losses: NDArray[np.float64] = (entropy[ends] - levels.sum(axis=1) + outliers) / total + np.log(inside / total)
    return losses


def _xlogx(values: NDArray[np.float64]) -> NDArray[np.float64]:
    product: NDArray[np.float64] = values * np.log(np.maximum(values, 1.0))  # counts: 0 or at least 1
    return product


def mse_range(histogram: Histogram, seen: Range, levels: int) -> Range:
    """The range around zero with the smallest expected squared error when cut into ``levels`` values.

    Error of a value inside is that of uniform rounding, step**2 / 12 (none for exact zeros); of a value outside,
    its squared distance to the end. Both ends are searched jointly; an end at zero stays there.
    """
    low, high = seen
    edges = histogram.edges()
    counts = histogram.counts.astype(np.float64)
    counts[_MIDDLE] -= histogram.zeros
    filled = np.flatnonzero(counts)
    centres, counts = ((edges[:-1] + edges[1:]) / 2.0)[filled], counts[filled]
    highs = _candidates(max(high, 0.0))
    lows = -_candidates(max(-low, 0.0))
    high_error, high_out = _clip_error(highs, centres, counts)
    low_error, low_out = _clip_error(-lows, -centres[::-1], counts[::-1])
    step = (highs[None, :] - lows[:, None]) / (levels - 1)
    inside = np.maximum(counts.sum() - high_out[None, :] - low_out[:, None], 0.0)
    error = inside * step**2 / 12.0 + high_error[None, :] + low_error[:, None]
    row, column = np.unravel_index(int(np.argmin(error)), error.shape)
    return float(lows[row]), float(highs[column])


def _candidates(end: float) -> NDArray[np.float64]:
    """Ends to try: from ``end`` inwards to a tenth of it, or zero alone."""
    ends: NDArray[np.float64] = np.linspace(end, end * 0.1, _CANDIDATES) if end > 0.0 else np.zeros(1)
    return ends


def _clip_error(
    ends: NDArray[np.float64], centres: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Summed squared distance to each end of the values above it, and how many those are; ``centres`` ascend.

    Sum (x - e)^2 = sum x^2 - 2 e sum x + e^2 n over the values above e: differences of running sums from the top.
    """
    first = np.searchsorted(centres, ends, side="right")
    above = [
        np.concatenate([np.cumsum((counts * power)[::-1])[::-1], [0.0]])
        for power in (np.ones_like(centres), centres, centres**2)
    ]
    number, linear, square = (sums[first] for sums in above)
    distance: NDArray[np.float64] = np.maximum(square - 2.0 * ends * linear + ends**2 * number, 0.0)
    return distance, number
