"""Average precision equals a plain, slow reading of COCO's definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tasks.average_precision import THRESHOLDS, Boxes, mean_average_precision, overlaps, suppressed


def scene(rng: np.random.Generator, images: int, classes: int) -> tuple[list[Boxes], list[Boxes]]:
    """Truth, and detections of which some are close to it, with scores that tie."""
    found, truth = [], []
    for _ in range(images):
        count = int(rng.integers(0, 5))
        low = rng.random((count, 2)) * 0.7
        real = np.concatenate([low, low + 0.1 + 0.2 * rng.random((count, 2))], axis=1)
        labels = rng.integers(0, classes, count)
        near = np.concatenate([real, real]) + rng.normal(0, 0.02, (2 * count, 4))
        near = np.concatenate([near[:, :2], np.maximum(near[:, 2:], near[:, :2] + 0.01)], axis=1)
        wrong = rng.random((2, 4)) * 0.4 + [0, 0, 0.5, 0.5]
        classes_of = np.concatenate([labels, labels, rng.integers(0, classes, 2)])
        scores = np.round(rng.random(len(classes_of)), 1)
        found.append(Boxes(corners=np.concatenate([near, wrong]), classes=classes_of, scores=scores))
        truth.append(Boxes(corners=real, classes=labels))
    return found, truth


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def slow_map(found: list[Boxes], truth: list[Boxes]) -> float:
    """Loops only: for each class and threshold, every recall point looks for the best precision at or beyond it."""
    values = []
    for label in sorted({int(c) for image in truth for c in image.classes}):
        for threshold in THRESHOLDS:
            rows: list[tuple[float, int, int, bool]] = []
            wanted = 0
            for number, (image, there) in enumerate(zip(found, truth, strict=True)):
                boxes = [box for box, c in zip(there.corners, there.classes, strict=True) if c == label]
                wanted += len(boxes)
                taken: set[int] = set()
                assert image.scores is not None
                own = [at for at, c in enumerate(image.classes) if c == label]
                scores = image.scores
                for rank, at in enumerate(sorted(own, key=lambda at, s=scores: -s[at])):  # type: ignore[misc]
                    best, match = threshold, -1
                    for j, box in enumerate(boxes):
                        shared = slow_iou(image.corners[at], box)
                        if j not in taken and (shared > best or (match < 0 and shared >= threshold)):
                            best, match = shared, j
                    taken |= {match} - {-1}
                    rows.append((-float(scores[at]), number, rank, match >= 0))
            rows.sort(key=lambda row: row[:3])
            points, right = [], 0
            for seen, row in enumerate(rows, start=1):
                right += row[3]
                points.append((right / wanted, right / seen))
            total = 0.0
            for recall in np.linspace(0, 1, 101):
                total += max((precision for reached, precision in points if reached >= recall), default=0.0)
            values.append(total / 101)
    return float(np.mean(values)) if values else 0.0


@given(seed=st.integers(0, 10_000), images=st.integers(1, 6), classes=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_it_equals_the_slow_reading(seed: int, images: int, classes: int) -> None:
    """Promise: to rounding, on random scenes with ties, empty images and wrong classes."""
    found, truth = scene(np.random.default_rng(seed), images, classes)
    assert mean_average_precision(found, truth) == pytest.approx(slow_map(found, truth), abs=1e-12)


def test_the_truth_itself_scores_one() -> None:
    """Promise: the best is 1, and nothing found is 0."""
    _, truth = scene(np.random.default_rng(1), 5, 2)
    same = [Boxes(corners=t.corners, classes=t.classes, scores=np.ones(len(t.classes))) for t in truth]
    none = [Boxes(corners=np.zeros((0, 4)), classes=np.zeros(0), scores=np.zeros(0)) for _ in truth]
    assert mean_average_precision(same, truth) == 1.0
    assert mean_average_precision(none, truth) == 0.0


def test_a_second_detection_of_a_box_is_wrong() -> None:
    """Promise: every box is found once; what stands behind all right answers costs nothing, before them it does."""
    box = np.array([[0.1, 0.1, 0.5, 0.5]])
    truth = [Boxes(corners=np.concatenate([box, box + 0.45]), classes=np.zeros(2))]
    twice = np.concatenate([box, box, box + 0.45])
    behind = Boxes(corners=twice, classes=np.zeros(3), scores=np.array([0.9, 0.1, 0.8]))
    before = Boxes(corners=twice, classes=np.zeros(3), scores=np.array([0.9, 0.8, 0.1]))
    assert mean_average_precision([behind], truth, (0.5,)) == 1.0
    assert mean_average_precision([before], truth, (0.5,)) == pytest.approx((51 + 50 * 2 / 3) / 101)


@given(seed=st.integers(0, 1000), count=st.integers(0, 12))
@settings(deadline=None, max_examples=30)
def test_no_two_that_stay_overlap_too_much(seed: int, count: int) -> None:
    """Promise: of those that stay no pair overlaps beyond the limit, and each that goes has a better one that stays."""
    rng = np.random.default_rng(seed)
    low = rng.random((count, 2))
    boxes, scores = np.concatenate([low, low + rng.random((count, 2))], axis=1), rng.random(count)
    kept = suppressed(boxes, scores, 0.5)
    shared = overlaps(boxes, boxes)
    assert all(shared[a, b] <= 0.5 for a in kept for b in kept if a != b)
    for gone in set(range(count)) - set(kept.tolist()):
        assert any(shared[gone, k] > 0.5 and scores[k] >= scores[gone] for k in kept)
