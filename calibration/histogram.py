"""What was seen of one tensor in flat memory: exact extremes, and a histogram that grows by range doubling."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

Floats = NDArray[np.float32]
Range = tuple[float, float]

BINS: Final = 2048
AVERAGING: Final = 0.01
RESERVOIR: Final = 512
_CHUNK: Final = 2**15
_FLOAT32_EXPONENT: Final = -100  # below, 1 / bin width leaves float32


@final
class Extremes:
    """Smallest and largest value: of all, averaged over samples, and of up to `RESERVOIR` samples drawn at random."""

    def __init__(self) -> None:
        self.count = 0
        self._range: Range = (math.inf, -math.inf)
        self._moving: Range | None = None
        self._random = np.random.default_rng(0)
        self._samples = 0
        self._reservoir: list[Range] = []

    def update(self, lows: Sequence[float], highs: Sequence[float], *, count: int, repeats: int = 1) -> None:
        """Takes in the ends of several samples, each standing for ``repeats`` samples, ``count`` values in all."""
        self.count += count
        self._range = min(self._range[0], *lows), max(self._range[1], *highs)
        for pair in zip(lows, highs, strict=True):
            for _ in range(repeats):
                self._average(pair)
            self._keep(pair)

    def range(self) -> Range:
        """Of all values."""
        return self._range

    def moving_range(self) -> Range:
        """Of samples, averaged exponentially."""
        assert self._moving is not None
        return self._moving

    def by_sample(self) -> NDArray[np.float64]:
        """Extremes of samples, ``(K, 2)``: of all, or of a random choice of `RESERVOIR` of them."""
        return np.asarray(self._reservoir, np.float64).reshape(-1, 2)

    def _average(self, pair: Range) -> None:
        before = self._moving or pair
        self._moving = (
            before[0] + AVERAGING * (pair[0] - before[0]),
            before[1] + AVERAGING * (pair[1] - before[1]),
        )

    def _keep(self, pair: Range) -> None:
        """Reservoir sampling: Vitter, Random sampling with a reservoir, 1985, algorithm R."""
        self._samples += 1
        if len(self._reservoir) < RESERVOIR:
            self._reservoir.append(pair)
        elif (place := int(self._random.integers(self._samples))) < RESERVOIR:
            self._reservoir[place] = pair


@final
class Histogram:
    """A signed histogram of `BINS` equal bins over [-R, R), R the smallest power of two above every magnitude.

    R doubles when a larger value comes; pairs of bins then fall together exactly. Because bin edges are dyadic, the
    counts depend only on the values, not on their order or batching.
    Exact zeros are counted apart: they quantise without error, and after a Relu they are many.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.zeros = 0
        self._exponent: int | None = None
        self._negative = False

    @property
    def radius(self) -> float:
        """R: values lie in [-R, R)."""
        return math.ldexp(1.0, self._exponent or 0)

    @property
    def bin_width(self) -> float:
        """Width of one bin, at most 1/512 of the largest magnitude seen."""
        return 2.0 * self.radius / BINS

    def update(self, values: Floats, ends: Range | None = None) -> None:
        """Takes in finite values ``(N,)``; ``ends``: no value is outside (measured when not given)."""
        if ends is None:
            ends = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
        self._negative |= ends[0] < 0.0
        largest = max(-ends[0], ends[1])
        if largest > 0.0:
            self._grow(math.frexp(largest)[1])
        if (self._exponent or 0) < _FLOAT32_EXPONENT:
            values = np.ldexp(values.astype(np.float64), -(self._exponent or 0)).astype(np.float32)
            scale = np.float32(BINS // 2)
        else:
            scale = np.float32(1.0 / self.bin_width)
        for start in range(0, values.size, _CHUNK):  # a part fits the cache for all five steps
            self._add(values[start : start + _CHUNK], scale)

    def edges(self) -> NDArray[np.float64]:
        """The ``BINS + 1`` bin edges."""
        edges: NDArray[np.float64] = (np.arange(BINS + 1, dtype=np.float64) - BINS // 2) * self.bin_width
        return edges

    def share_outside(self, low: float, high: float) -> float:
        """Share of the values in bins wholly outside [low, high]."""
        edges, total = self.edges(), int(self.counts.sum())
        outside = (edges[1:] <= low) | (edges[:-1] >= high)
        outside[BINS // 2] &= low > 0.0 or high < 0.0  # exact zeros lie in the bin right of zero
        return float(self.counts[outside].sum() / total) if total else 0.0

    def _add(self, values: Floats, scale: np.float32) -> None:
        """Scaling by a power of two is exact, and so is each later step: the bin is the one of exact arithmetic."""
        scaled, bins = _scratch(values.size)
        if self._negative:
            np.multiply(values, scale, out=scaled)
            np.floor(scaled, out=scaled)
            np.add(scaled, np.float32(BINS // 2), out=scaled)
            np.copyto(bins, scaled, casting="unsafe")
            self.counts += np.bincount(bins, minlength=BINS)
        else:
            np.multiply(values, scale, out=bins, casting="unsafe")  # cutting off the fraction is the floor
            self.counts[BINS // 2 :] += np.bincount(bins, minlength=BINS // 2)
        self.zeros += int(np.count_nonzero(values == 0.0))

    def _grow(self, exponent: int) -> None:
        if self._exponent is None:
            # Only zeros so far: they sit in the bin right of the middle at every radius.
            self._exponent = exponent
        while self._exponent < exponent:
            inner = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : BINS // 4 + BINS // 2] = inner
            self._exponent += 1


_local = threading.local()


def _scratch(size: int) -> tuple[Floats, NDArray[np.intp]]:
    """Two buffers of this thread, so that nothing is allocated for each part."""
    if not hasattr(_local, "buffers"):
        _local.buffers = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.intp)
    scaled, bins = _local.buffers
    return scaled[:size], bins[:size]
