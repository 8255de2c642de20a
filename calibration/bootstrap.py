"""How far a scale would move had other samples been drawn: the bootstrap over samples."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DRAWS: Final = 200
_QUANTILES: Final = np.array([0.05, 0.95])


def scale_spread(extremes: NDArray[np.float64]) -> float:
    """Spread of the min-max scale over 200 bootstrap draws of the samples (fixed seed), relative to the scale.

    Efron, Bootstrap methods, 1979. Half the width of the central 90 % of the draws' scales. The largest of a draw
    never exceeds the largest seen, so this is the width below it; read it as an order of magnitude.

    Args:
        extremes: Smallest and largest value of each sample, ``(K, 2)``.

    Returns:
        0 for a constant zero; 0 for one sample, which says nothing.
    """
    lows, highs = np.minimum(extremes[:, 0], 0.0), np.maximum(extremes[:, 1], 0.0)
    whole = float(highs.max() - lows.min())
    if whole == 0.0:
        return 0.0
    draws = _draws(len(extremes))
    scales = highs[draws].max(axis=1) - lows[draws].min(axis=1)
    low, high = np.interp(_QUANTILES * (_DRAWS - 1), np.arange(_DRAWS), np.sort(scales))
    return float(high - low) / 2.0 / whole


@lru_cache(maxsize=4)
def _draws(count: int) -> NDArray[np.int64]:
    """Which samples each draw takes, ``(_DRAWS, count)``; the same for every tensor."""
    return np.random.default_rng(0).integers(count, size=(_DRAWS, count))
