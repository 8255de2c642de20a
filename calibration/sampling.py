"""Draws one value of each eight in a row, at random places that no pattern in the data can meet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Every = Literal["sampled", "all"]

STRIDE: Final = 8
ALL_BELOW: Final = 4096
_STEPS: Final = 64
_STRATA: Final = 2**14
STRETCH: Final = _STRATA * STRIDE


def _patterns() -> NDArray[np.int64]:
    """Places to look at, ``(STRIDE, _STRATA)``: row r is one place in each stratum, turned r further."""
    places = np.random.default_rng(0).integers(STRIDE, size=_STRATA)
    turned = (places[None, :] + np.arange(STRIDE)[:, None]) % STRIDE
    patterns: NDArray[np.int64] = turned + np.arange(_STRATA) * STRIDE
    return patterns


_PATTERNS: Final = _patterns()


def drawn_from(count: int) -> int:
    """How many of ``count`` values in a row are drawn."""
    return -(-count // STRIDE)


@final
class Sampler:
    """A stratified random sample of a long run of values.

    The values are cut into strata of eight; of each, one place is drawn. Places come from a pattern of 16,384
    independent draws, turned by a fresh random step for each stretch of 16,384 strata. So every value is drawn with
    probability 1/8, and the draws of any two strata are independent of each other: of the sample's share of values with
    some property, the variance is at most that of as many independent draws (Cochran, Sampling Techniques, 5.6),
    whatever the data. A last, shorter stratum draws once too, its last value most often.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._steps: list[int] = []

    def draw(self, stretch: NDArray[np.float32], *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """The sample of at most `STRETCH` values (N,): `drawn_from` of N values, written to ``out`` if given."""
        if not self._steps:
            self._steps = self._random.integers(STRIDE, size=_STEPS).tolist()
        places = _PATTERNS[self._steps.pop()]
        drawn: NDArray[np.float32] = stretch.take(places[: drawn_from(stretch.size)], mode="clip", out=out)
        return drawn
