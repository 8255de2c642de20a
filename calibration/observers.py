"""Observers watch the values of one tensor, batch by batch in flat memory, and read clip ranges from what they saw."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputError

Floats = NDArray[np.float32]
Range = tuple[float, float]

BINS: Final = 2048
_CANDIDATES: Final = 160


class Observer(ABC):
    """Something that sees every batch of one tensor once."""

    @final
    def update(self, array: Floats) -> None:
        """Takes in a batch of finite values of any shape; an empty one changes nothing."""
        if array.size:
            self._update(array.reshape(-1))

    @final
    def range(self) -> Range:
        """The range (low, high) to quantise.

        Raises:
            InputError: Nothing was seen.
        """
        if not self.count:
            raise InputError(
                "an observed tensor had no values",
                "every calibration batch left it empty",
                "give samples that reach the tensor",
            )
        return self._range()

    @property
    @abstractmethod
    def count(self) -> int:
        """Values seen so far."""

    @abstractmethod
    def _update(self, values: Floats) -> None: ...

    @abstractmethod
    def _range(self) -> Range: ...


@final
class MinMax(Observer):
    """The smallest and the largest value."""

    def __init__(self) -> None:
        self._low, self._high, self._count = math.inf, -math.inf, 0

    @property
    def count(self) -> int:  # noqa: D102
        return self._count

    def _update(self, values: Floats) -> None:
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        self._count += values.size

    def _range(self) -> Range:
        return self._low, self._high


@final
class Histogram(Observer):
    """A signed histogram of `BINS` equal bins over [-R, R), R the smallest power of two above every magnitude.

    R doubles when a larger value comes; pairs of bins then fall together exactly. Because bin edges are dyadic, the
    counts depend only on the values, not on their order or batching.
    Exact zeros are counted apart: they quantise without error, and after a Relu they are many.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.zeros = 0
        self._exponent: int | None = None
        self._minmax = MinMax()

    @property
    def count(self) -> int:  # noqa: D102
        return self._minmax.count

    @property
    def radius(self) -> float:
        """R: values lie in [-R, R)."""
        return math.ldexp(1.0, self._exponent or 0)

    @property
    def bin_width(self) -> float:
        """Width of one bin, at most 1/512 of the largest magnitude seen."""
        return 2.0 * self.radius / BINS

    def _update(self, values: Floats) -> None:
        self._minmax.update(values)
        self.zeros += int(values.size - np.count_nonzero(values))
        low, high = self._minmax.range()
        if (largest := max(-low, high)) > 0.0:
            self._grow(math.frexp(largest)[1])
        bins = np.floor(values / np.float64(self.bin_width)).astype(np.int64) + BINS // 2
        self.counts += np.bincount(bins, minlength=BINS)

    def _grow(self, exponent: int) -> None:
        if self._exponent is None:
            # Only zeros so far: they sit in the bin right of the middle at every radius.
            self._exponent = exponent
        while self._exponent < exponent:
            inner = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = inner
            self._exponent += 1

    def _range(self) -> Range:
        return self._minmax.range()

    def percentile_range(self, percent: float) -> Range:
        """The range that leaves ``(100 - percent) / 2`` percent of the values outside on each side.

        Each end is within one `bin_width` of the exact percentile, and never outside the range seen.
        """
        low, high = self.range()
        tail = (1.0 - percent / 100.0) / 2.0 * self.counts.sum()
        below = np.cumsum(self.counts)
        above = below[-1] - below
        edges = self._edges()
        left = edges[int(np.argmax(below > tail))]
        right = edges[int(np.argmax(above <= tail)) + 1]
        return max(low, float(left)), min(high, float(right))

    def mse_range(self, levels: int) -> Range:
        """The range around zero with the smallest expected squared error when cut into ``levels`` values.

        Error of a value inside is that of uniform rounding, step**2 / 12 (none for exact zeros); of a value outside,
        its squared distance to the end. Both ends are searched jointly; an end at zero stays there.
        """
        low, high = self.range()
        edges = self._edges()
        centres = (edges[:-1] + edges[1:]) / 2.0
        counts = self.counts.astype(np.float64)
        counts[BINS // 2] -= self.zeros
        highs = _candidates(max(high, 0.0))
        lows = -_candidates(max(-low, 0.0))
        high_error, high_out = _clip_error(highs, centres, counts)
        low_error, low_out = _clip_error(-lows, -centres[::-1], counts[::-1])
        step = (highs[None, :] - lows[:, None]) / (levels - 1)
        inside = np.maximum(counts.sum() - high_out[None, :] - low_out[:, None], 0.0)
        error = inside * step**2 / 12.0 + high_error[None, :] + low_error[:, None]
        row, column = np.unravel_index(int(np.argmin(error)), error.shape)
        return float(lows[row]), float(highs[column])

    def _edges(self) -> NDArray[np.float64]:
        edges: NDArray[np.float64] = (np.arange(BINS + 1, dtype=np.float64) - BINS // 2) * self.bin_width
        return edges


def _candidates(end: float) -> NDArray[np.float64]:
    """Ends to try: from ``end`` inwards to a tenth of it, or zero alone."""
    ends: NDArray[np.float64] = np.linspace(end, end * 0.1, _CANDIDATES) if end > 0.0 else np.zeros(1)
    return ends


def _clip_error(
    ends: NDArray[np.float64], centres: NDArray[np.float64], counts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Summed squared distance to each end of the values above it, and how many those are."""
    beyond = np.maximum(centres[None, :] - ends[:, None], 0.0)
    distance: NDArray[np.float64] = np.square(beyond) @ counts
    number: NDArray[np.float64] = (beyond > 0.0) @ counts
    return distance, number
