"""The 1,797 handwritten digits that come with scikit-learn, split by a fixed permutation."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits


def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """60 % training, 20 % validation, 20 % test; images (N, 1, 8, 8) scaled to mean 0 and about unit spread."""
    bunch = load_digits()
    images = ((bunch.images - 5.0) / 6.0).astype(np.float32)[:, np.newaxis]
    labels = bunch.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(labels))
    train, validation, test = np.split(order, [len(order) * 6 // 10, len(order) * 8 // 10])
    parts = {"train": train, "validation": validation, "test": test}
    return {name: (images[rows], labels[rows]) for name, rows in parts.items()}
