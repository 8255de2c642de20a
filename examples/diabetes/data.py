"""The diabetes set that comes with scikit-learn: ten measurements of 442 patients, and how the disease went on."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_diabetes


def diabetes() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """60 % training, 20 % validation, 20 % test; (N, 10) inputs and (N, 1) targets, both standardised on training."""
    inputs, target = load_diabetes(return_X_y=True, scaled=False)
    order = np.random.default_rng(0).permutation(len(target))
    train, validation, test = np.split(order, [len(order) * 6 // 10, len(order) * 8 // 10])
    columns = np.column_stack([inputs, target])
    columns = ((columns - columns[train].mean(axis=0)) / columns[train].std(axis=0)).astype(np.float32)
    parts = {"train": train, "validation": validation, "test": test}
    return {name: (columns[rows, :-1], columns[rows, -1:]) for name, rows in parts.items()}
