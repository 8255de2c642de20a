"""What eight bits cost an activation by itself, and a small histogram of those that suffer most: for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from calibration.histogram import BINS
from calibration.table import Bars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calibration.histogram import Histogram
    from calibration.table import TensorFacts

WORST: Final = 6
BARS: Final = 64
LEVELS: Final = 256
_MIDDLE: Final = BINS // 2


def expected_snr_db(histogram: Histogram, low: float, high: float) -> float | None:
    """Signal-to-noise ratio of the values when 256 levels span a range; None where all values are zero.

    Inside, a value is off by an even spread over one step: ``step**2 / 12`` (Widrow and Kollar, Quantization Noise,
    2008); outside, by its distance to the end. Exact zeros have no error, since every range that is used holds zero.
    """
    counts = histogram.counts.astype(np.float64)
    counts[_MIDDLE] -= histogram.zeros
    edges = histogram.edges()
    values = (edges[:-1] + edges[1:]) / 2
    low, high = min(low, 0.0), max(high, 0.0)
    beyond = np.maximum(low - values, 0.0) + np.maximum(values - high, 0.0)
    step = (high - low) / (LEVELS - 1)
    noise = float((counts * np.where(beyond > 0.0, beyond**2, step**2 / 12)).sum())
    signal = float((counts * values**2).sum())
    if signal <= 0.0 or noise <= 0.0:
        return None
    return round(10 * math.log10(signal / noise), 2)


def bars_of(histogram: Histogram) -> Bars:
    """The histogram in at most 64 equal bars, over what was seen."""
    filled = np.flatnonzero(histogram.counts)
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (_MIDDLE, _MIDDLE + 1)
    every = -(-(last - first) // BARS)
    starts = np.arange(first, last, every)
    counts = np.add.reduceat(histogram.counts[first:last], starts - first)
    edges = histogram.edges()
    low = float(edges[first])
    return Bars(
        low=low,
        high=low + every * len(starts) * histogram.bin_width,
        counts=tuple(int(count) for count in counts),
    )


def worst_tensors(facts: Mapping[str, TensorFacts]) -> list[str]:
    """Those that eight bits cost most by whichever method is kindest to them, the worst first."""
    best = {name: max(one.snr_db.values()) for name, one in facts.items() if one.snr_db}
    return sorted(best, key=lambda name: (best[name], name))[:WORST]
