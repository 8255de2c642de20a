"""Observers read a range to quantise from what was seen of one tensor; all of a tensor share one record of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, final

import numpy as np

from calibration.histogram import Extremes, Floats, Histogram, Range
from calibration.histogram_ranges import entropy_range, mse_range, percentile_range
from calibration.sampling import ALL_BELOW, STRETCH, Sampler, drawn_from
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calibration.sampling import Every

PERCENT: Final = 99.999
LEVELS: Final = 256
PENDING: Final = 2**16


@final
class Seen:
    """What is kept of one tensor: exact extremes, and a histogram of all or of sampled values. Flat memory.

    Args:
        every: What the histogram takes. ``all``: every value. ``sampled``: one random value of each eight in a row,
            and all of an update with fewer than `ALL_BELOW` values. The extremes always take every value.
        seed: Of the sampling.
        pending: How many drawn values may wait until they are counted together; no result depends on it.

    The sampled histogram's rank error: let a share F of all values lie below some point, and n values be sampled. The
    share G of the sampled values below it has mean F (to within 1 / n) and variance at most ``F (1 - F) / n``,
    whatever the data and their order (`calibration.sampling`). So by Chebyshev's inequality
    ``|G - F| > k sqrt(F (1 - F) / n)`` has a probability of at most ``1 / k**2``. A percentile range that should
    leave out 1e-5 of a million sampled values leaves out 1e-5 +- 3e-6 of all values (one standard error); it never
    leaves the range seen.
    """

    def __init__(self, *, every: Every = "all", seed: int = 0, pending: int = PENDING) -> None:
        self.extremes, self._histogram = Extremes(), Histogram()
        self._sampler = Sampler(seed) if every == "sampled" else None
        self._most_pending = pending
        self._pending: Floats = np.empty(0, np.float32)
        self._pending_count = 0
        self._ends: Range = (0.0, 0.0)

    @property
    def count(self) -> int:
        """Values seen so far."""
        return self.extremes.count

    @property
    def histogram(self) -> Histogram:
        """The histogram, up to date."""
        self._flush()
        return self._histogram

    def update(self, array: Floats, samples: int = 1) -> bool:
        """Takes in a batch of ``samples`` samples, any shape; an empty one changes nothing.

        Returns:
            False when a value is NaN or Inf; the record is then good for nothing.
        """
        if not array.size:
            return True
        rows = _by_sample(array, samples)
        sampler = self._sampler if array.size >= ALL_BELOW else None
        repeats = samples // len(rows)
        taken = max(1, STRETCH // rows.shape[1])
        parts = (rows[first : first + taken] for first in range(0, len(rows), taken))
        return all(self._update(part, sampler, repeats) for part in parts)

    def _update(self, rows: Floats, sampler: Sampler | None, repeats: int) -> bool:
        """Several short rows, or one long row in parts that fit the cache: each is read from memory once."""
        lows, highs = [math.inf] * len(rows), [-math.inf] * len(rows)
        for start in range(0, rows.shape[1], STRETCH):
            part = rows[:, start : start + STRETCH]
            least, most = np.minimum.reduce(part, axis=1).tolist(), np.maximum.reduce(part, axis=1).tolist()
            if not all(map(math.isfinite, (*least, *most))):
                return False
            lows, highs = [*map(min, lows, least)], [*map(max, highs, most)]
            self._ends = min(self._ends[0], *least), max(self._ends[1], *most)
            self._keep(part.reshape(-1), sampler)
        self.extremes.update(lows, highs, count=rows.size, repeats=repeats)
        return True

    def _keep(self, values: Floats, sampler: Sampler | None) -> None:
        """Small draws wait for others: counting has a cost for each call."""
        count = values.size if sampler is None else drawn_from(values.size)
        if count > self._most_pending:
            self._histogram.update(values if sampler is None else sampler.draw(values), self._ends)
            return
        if self._pending_count + count > self._most_pending:
            self._flush()
        if not self._pending.size:
            self._pending = np.empty(self._most_pending, np.float32)
        place = self._pending[self._pending_count : self._pending_count + count]
        if sampler is None:
            place[:] = values
        else:
            sampler.draw(values, out=place)
        self._pending_count += count

    def _flush(self) -> None:
        if self._pending_count:
            self._histogram.update(self._pending[: self._pending_count], self._ends)
            self._pending_count = 0


def _by_sample(array: Floats, samples: int) -> Floats:
    """``(samples, values)``; one row for all where the first axis does not hold the samples."""
    whole = array.ndim and array.shape[0] % samples == 0
    rows: Floats = array.reshape(samples if whole else 1, -1)
    return rows


class Observer(ABC):
    """One way to read a range from what was seen of a tensor.

    Args:
        seen: The record that is shared with other observers and fed by its owner; None makes one of its own.
    """

    def __init__(self, seen: Seen | None = None) -> None:
        self.seen = seen or Seen()

    @final
    def update(self, array: Floats, samples: int = 1) -> None:
        """Feeds the record (for an observer that has one of its own).

        Raises:
            InputError: NaN or Inf.
        """
        if not self.seen.update(array, samples):
            raise InputError(
                "an observed tensor holds NaN or Inf", "no range can be measured on it", "repair model or samples"
            )

    @final
    def range(self) -> Range:
        """The range (low, high) to quantise, inside what was seen (zero counts as seen).

        Raises:
            InputError: Nothing was seen.
        """
        if not self.seen.count:
            raise InputError(
                "an observed tensor had no values",
                "every calibration batch left it empty",
                "give samples that reach the tensor",
            )
        return self._range()

    @abstractmethod
    def _range(self) -> Range: ...


@final
class MinMax(Observer):
    """The smallest and the largest value. Exact; depends on neither order nor batching."""

    def _range(self) -> Range:
        return self.seen.extremes.range()


@final
class MovingAverage(Observer):
    """Each sample's smallest and largest value, averaged exponentially, weight 0.01 (torch averages batches).

    Depends on the order of the samples: later ones count more. It does not depend on batching where the first axis of
    the tensor holds the samples; elsewhere a batch counts as that many samples with the batch's extremes.
    """

    def _range(self) -> Range:
        return self.seen.extremes.moving_range()


@final
class Percentile(Observer):
    """Leaves out 0.001 % of the values, half of them on each side; see `Seen` for the error of sampling."""

    def _range(self) -> Range:
        return percentile_range(self.seen.histogram, self.seen.extremes.range(), PERCENT)


@final
class Entropy(Observer):
    """The range whose 128 levels tell least apart from the values themselves, in Kullback-Leibler divergence.

    Migacz, 8-bit Inference with TensorRT, GTC 2017; `calibration.histogram_ranges.entropy_range`.
    """

    def _range(self) -> Range:
        return entropy_range(self.seen.histogram, self.seen.extremes.range())


@final
class MSE(Observer):
    """The range with the smallest expected squared error in 256 levels."""

    def _range(self) -> Range:
        return mse_range(self.seen.histogram, self.seen.extremes.range(), LEVELS)


METHODS: Final[Mapping[str, type[Observer]]] = {
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "percentile": Percentile,
    "entropy": Entropy,
    "mse": MSE,
}
"""Name of a method -> its observer."""


def ranges(seen: Seen, methods: Sequence[str]) -> dict[str, Range]:
    """The range of each method, all read from one record.

    Raises:
        InputError: Nothing was seen.
    """
    return {method: METHODS[method](seen).range() for method in methods}
