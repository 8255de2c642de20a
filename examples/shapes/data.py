"""Bright discs, squares and triangles of random colours on a noisy background, each pixel with its class."""

from __future__ import annotations

import numpy as np


def shapes(train: int = 600, others: int = 150, size: int = 48) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 3, size, size) and masks (N, size, size): 0 background, 1 disc, 2 square, 3 triangle."""
    rng = np.random.default_rng(0)
    counts = {"train": train, "validation": others, "test": others}
    return {name: _drawn(rng, count, size) for name, count in counts.items()}


def _drawn(rng: np.random.Generator, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    images = rng.normal(0.0, 0.2, (count, 3, size, size)).astype(np.float32)
    images += rng.uniform(-0.5, 0.5, (count, 3, 1, 1)).astype(np.float32)
    masks = np.zeros((count, size, size), dtype=np.int64)
    y, x = np.mgrid[:size, :size]
    for image, mask in zip(images, masks, strict=True):
        for _ in range(rng.integers(1, 4)):
            kind, reach = rng.integers(1, 4), rng.uniform(size / 8, size / 4)
            across, down = rng.uniform(reach, size - reach, 2)
            right, below = x - across, y - down
            inside = {
                1: right**2 + below**2 < reach**2,
                2: np.maximum(abs(right), abs(below)) < 0.9 * reach,
                3: (below < reach) & (below > 2 * abs(right) - reach),
            }[int(kind)]
            mask[inside] = kind
            image[:, inside] += rng.uniform(0.5, 1.5, (3, 1)).astype(np.float32)
    return images, masks
