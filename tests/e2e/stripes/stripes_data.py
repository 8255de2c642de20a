"""Three kinds of 8x8 patterns under noise: across, down, and a checkerboard."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pair = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def stripes(samples: int = 192) -> dict[str, Pair]:
    """Images (N, 1, 8, 8) and their kinds (N,), ``samples`` for training and a third of it for each other split."""
    random = np.random.default_rng(7)
    return {
        name: _split(random, count)
        for name, count in (("train", samples), ("validation", samples // 3), ("test", samples // 3))
    }


def _split(random: np.random.Generator, count: int) -> Pair:
    labels = np.arange(count, dtype=np.int64) % 3
    rows, columns = np.indices((8, 8))
    kinds = np.stack([rows % 2, columns % 2, (rows + columns) % 2]).astype(np.float32)  # (3, 8, 8)
    images = kinds[labels] * 2 - 1 + random.normal(0, 0.7, (count, 8, 8))
    return images[:, np.newaxis].astype(np.float32), labels
