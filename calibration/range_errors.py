"""What rounding one scale group costs at the layers that read it, over batches of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import NDArray

from calibration.regions import ERROR, REFERENCE, SCALE, ZERO
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calibration.numerics import Affine
    from calibration.regions import Region
    from calibration.session import Session

Array = NDArray[np.generic]

_SAME: Final = 1e-3  # between sums in float32 in another order


@final
class RegionErrors:
    """Squared errors at the ends of a region over the power of what they should be, summed over the ends.

    Batches are computed as one where that gives what they give one by one. It does not where the samples lie along
    another axis than the first, or where the graph holds the batch's size.

    Args:
        session: The region's model, as `calibration.regions.region_model` makes it.
        region: The region.
        batches: All its tensors, batch by batch.
        start: Any rounding that costs something.
    """

    def __init__(self, session: Session, region: Region, batches: Sequence[Mapping[str, Array]], start: Affine) -> None:
        self._session, self._names = session, [f"{ERROR}{index}" for index in range(len(region.ends))]
        power = [sum(float(np.sum(np.square(b[name], dtype=np.float64))) for b in batches) for name in region.ends]
        self._power = np.maximum(power, 1e-30)
        feeds = [_feed(region, batch) for batch in batches]
        self._feeds = [_stacked(feeds)] if self._stacks([feeds[0], feeds[-1]], start) else feeds

    def __call__(self, affine: Affine) -> float:
        """The error with that rounding."""
        errors = np.sum([self._run(feed, affine) for feed in self._feeds], axis=0)
        return float(np.sum(errors / self._power))

    def _stacks(self, pair: Sequence[Mapping[str, Array]], affine: Affine) -> bool:
        apart = np.sum([self._run(feed, affine) for feed in pair], axis=0)
        try:
            together = self._run(_stacked(pair), affine)
        except (InputError, ValueError):  # the sizes do not fit together, or not the graph
            return False
        return bool(np.allclose(apart, together, rtol=_SAME, atol=0.0))

    def _run(self, feed: Mapping[str, Array], affine: Affine) -> NDArray[np.float64]:
        rounding = {SCALE: np.array(affine.scale, np.float32), ZERO: affine.zero}
        return np.array([float(np.asarray(error)) for error in self._session.run(self._names, {**feed, **rounding})])


def _feed(region: Region, batch: Mapping[str, Array]) -> dict[str, Array]:
    feed = {name: batch[name] for name in (*region.sources, *region.feeds)}
    return feed | {f"{REFERENCE}{index}": batch[name] for index, name in enumerate(region.ends)}


def _stacked(feeds: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
