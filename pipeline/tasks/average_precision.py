"""Mean average precision of detections, as COCO defines it: 101 recall points, greedy matches by score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
THRESHOLDS: Final = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
_RECALLS: Final = np.linspace(0, 1, 101)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """Boxes of one image.

    Attributes:
        corners: ``(B, 4)``: left, top, right, bottom, in any one unit.
        classes: ``(B,)``.
        scores: ``(B,)``, of detections; None for the truth.
    """

    corners: Array
    classes: Array
    scores: Array | None = None


def mean_average_precision(
    found: Sequence[Boxes], truth: Sequence[Boxes], thresholds: Sequence[float] = THRESHOLDS
) -> float:
    """The mean of `average_precision` over thresholds and over the classes that occur in the truth.

    Args:
        found: Detections, an entry an image.
        truth: What is there, an entry an image.
        thresholds: Intersection over union from which a detection may match.
    """
    classes = sorted({int(c) for image in truth for c in image.classes})
    values = [average_precision(found, truth, label, threshold) for label in classes for threshold in thresholds]
    return float(np.mean(values)) if values else 0.0


def average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], label: int, threshold: float) -> float:
    """Area under precision over recall for one class (Lin et al., arXiv 1405.0312; cocoapi, `accumulate`).

    In each image detections match in the order of their scores, each the free box that it overlaps most. Precision at a
    recall is the best at that recall or beyond, read at 101 recalls.
    """
    scores: list[Array] = []
    hits: list[Array] = []
    wanted = 0
    for image, there in zip(found, truth, strict=True):
        assert image.scores is not None
        own = image.classes == label
        order = np.argsort(-image.scores[own], kind="stable")
        boxes = there.corners[there.classes == label]
        wanted += len(boxes)
        scores.append(image.scores[own][order])
        hits.append(_matches(overlaps(image.corners[own][order], boxes), threshold))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right = np.cumsum(np.concatenate(hits)[order])
    if not wanted or not len(right):
        return 0.0
    recall = right / wanted
    precision = np.maximum.accumulate((right / np.arange(1, len(right) + 1))[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(at < len(right), precision[np.minimum(at, len(right) - 1)], 0.0).mean())


def overlaps(first: Array, second: Array) -> Array:
    """Intersection over union of every pair, ``(A, B)``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def suppressed(corners: Array, scores: Array, limit: float) -> Array:
    """Numbers of the boxes that stay when each removes those of lower score that it overlaps by more than ``limit``."""
    order = np.argsort(-scores, kind="stable")
    close = overlaps(corners, corners) > limit
    kept: list[int] = []
    alive = np.ones(len(scores), dtype=bool)
    for box in order:
        if alive[box]:
            kept.append(int(box))
            alive &= ~close[box]
    return np.array(kept, dtype=np.int64)


def _matches(shared: Array, threshold: float) -> Array:
    """Which detections, in order of score, match a box that no one before them took."""
    free = np.ones(shared.shape[1], dtype=bool)
    hits = np.zeros(len(shared), dtype=bool)
    for at, row in enumerate(shared):
        open_to = np.where(free, row, -1.0)
        if len(row) and open_to.max() >= threshold:
            free[open_to.argmax()] = False
            hits[at] = True
    return hits
