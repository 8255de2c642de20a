"""Whether calibration inputs were prepared as evaluation's: moments by channel, and the Kolmogorov-Smirnov distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from calibration.samples import CalibrationSet

MEAN_SHIFT: Final = 0.25
STD_RATIO: Final = 1.25
KS_DISTANCE: Final = 0.15
"""From these on two inputs differ: means by a quarter of the standard deviation, standard deviations by a quarter,
distributions by 0.15; and by more than four standard errors over samples."""

_ERRORS: Final = 4.0
_VALUES: Final = 2**18
_MOST_SAMPLES: Final = 1024
_MOST_CHANNELS: Final = 64
_IMAGE_RANK: Final = 3
_FACTORS: Final = (255.0, 1.0 / 255.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """An input whose two distributions differ.

    Attributes:
        input: Its name.
        text: How they differ.
        evidence: Per channel means and standard deviations of both sides, and the distance.
        fix: What to look at.
    """

    input: str
    text: str
    evidence: Mapping[str, object]
    fix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moments:
    mean: NDArray[np.float64]  # (C,)
    std: NDArray[np.float64]  # (C,)
    mean_error: NDArray[np.float64]  # (C,), standard error of the mean over samples
    values: NDArray[np.float64]  # (K,), sorted; the first channel fastest to differ is in there as all others


def input_shifts(samples: CalibrationSet, validation: CalibrationSet) -> Iterator[Shift]:
    """The inputs that differ. Both sets are read once, at most 1,024 samples evenly spread, one batch in memory."""
    for name in samples.inputs:
        mine, theirs = _moments(samples, name), _moments(validation, name)
        std = np.maximum(theirs.std, 1e-12 + 1e-6 * np.abs(theirs.mean))
        moved = np.abs(mine.mean - theirs.mean) / std
        error = np.hypot(mine.mean_error, theirs.mean_error) / std
        ratio = np.maximum(mine.std, 1e-12) / std
        distance = ks_distance(mine.values, theirs.values)
        noise = float(error.max())
        reasons = [
            f"mean off by {moved.max():.2f} standard deviations"
            if bool((moved > np.maximum(MEAN_SHIFT, _ERRORS * error)).any())
            else "",
            f"standard deviation {ratio[np.argmax(np.abs(np.log(ratio)))]:.2f} times as large"
            if float(np.exp(np.abs(np.log(ratio)).max())) > max(STD_RATIO, 1.0 + _ERRORS * noise)
            else "",
            f"Kolmogorov-Smirnov distance {distance:.2f}" if distance > max(KS_DISTANCE, _ERRORS * noise / 2.0) else "",
        ]
        if any(reasons):
            yield Shift(
                input=name,
                text=", ".join(reason for reason in reasons if reason),
                evidence={
                    "calibration": {"mean": mine.mean.tolist(), "std": mine.std.tolist()},
                    "validation": {"mean": theirs.mean.tolist(), "std": theirs.std.tolist()},
                    "ks_distance": distance,
                },
                fix=_remedy(mine, theirs),
            )


def ks_distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Largest difference of two empirical distribution functions; both arrays sorted."""
    points = np.concatenate([first, second])
    below = (np.searchsorted(side, points, side="right") / side.size for side in (first, second))
    return float(np.abs(next(below) - next(below)).max())


def _moments(samples: CalibrationSet, name: str) -> _Moments:
    places = np.unique(np.linspace(0, len(samples) - 1, min(len(samples), _MOST_SAMPLES)).astype(np.int64))
    means, squares, kept = [], [], []
    draw = np.random.default_rng(0)
    each = max(1, _VALUES // len(places))
    for place in places.tolist():
        channels = _by_channel(samples.rows(place, place + 1)[name][0])
        means.append(channels.mean(axis=1))
        squares.append(np.square(channels).mean(axis=1))
        flat = channels.reshape(-1)
        kept.append(flat if flat.size <= each else flat[draw.integers(flat.size, size=each)])
    mean = np.mean(means, axis=0)
    return _Moments(
        mean=mean,
        std=np.sqrt(np.maximum(np.mean(squares, axis=0) - np.square(mean), 0.0)),
        mean_error=np.std(means, axis=0) / np.sqrt(len(places)),
        values=np.sort(np.concatenate(kept)),
    )


def _by_channel(sample: NDArray[np.generic]) -> NDArray[np.float64]:
    """``(C, values)``: channels of (C, H, W) or (H, W, C); anything of lower rank is one channel."""
    values = sample.astype(np.float64)
    if values.ndim < _IMAGE_RANK - 1 or (values.ndim < _IMAGE_RANK and values.shape[0] > _MOST_CHANNELS):
        return values.reshape(1, -1)
    if values.ndim >= _IMAGE_RANK and values.shape[-1] < values.shape[0]:
        values = np.moveaxis(values, -1, 0)
    return values.reshape(values.shape[0], -1) if values.shape[0] <= _MOST_CHANNELS else values.reshape(1, -1)


def _remedy(mine: _Moments, theirs: _Moments) -> str:
    size, wanted = float(np.abs(mine.values).max()), float(np.abs(theirs.values).max())
    if size > 0.0 and wanted > 0.0 and any(0.8 < size / wanted / factor < 1.25 for factor in _FACTORS):  # noqa: PLR2004
        return "one side divides by 255 and the other does not: prepare both with the same code"
    if len(mine.mean) > 1:
        straight = float(np.abs(mine.mean - theirs.mean).max())
        turned = float(np.abs(mine.mean[::-1] - theirs.mean).max())
        if turned < straight / 4.0:
            return "the channels are in reversed order (RGB and BGR): prepare both with the same code"
    return "prepare calibration samples with the very code of evaluation: resize, crop, scaling, mean and deviation"
