"""CIFAR-10 from one .npz of JPEG images: arrays `jpeg`, `offsets`, `label`, `split` (0 train, 1 test)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
VALIDATION = 5_000


def cifar10(images: Path, train: int = 20_000) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 3, 32, 32), normalised; labels 0-9.

    Classes alternate in the file, so any leading part is balanced.

    Args:
        images: The .npz file.
        train: Training images used; the last 5,000 of the 50,000 are the validation split.
    """
    with np.load(images, allow_pickle=False) as archive:
        jpeg, offsets, labels, split = (archive[name] for name in ("jpeg", "offsets", "label", "split"))
    trained, tested = np.flatnonzero(split == 0), np.flatnonzero(split == 1)
    rows = {"train": trained[:train], "validation": trained[-VALIDATION:], "test": tested}
    return {
        name: (np.stack([_decode(jpeg, offsets, row) for row in part]), labels[part].astype(np.int64))
        for name, part in rows.items()
    }


def _decode(jpeg: np.ndarray, offsets: np.ndarray, row: int) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg[offsets[row] : offsets[row + 1]].tobytes())) as image:
        pixels = np.asarray(image, dtype=np.float32) / 255.0  # (32, 32, 3)
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1))
