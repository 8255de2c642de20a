"""CIFAR-10 from one .npz of JPEG images: arrays `jpeg`, `offsets`, `label`, `split` (0 train, 1 test)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def cifar10(images: Path, train: int = 20_000, *, mirrored: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 3, 32, 32), normalised; labels 0-9.

    Classes alternate in the file, so any part is balanced. The weights have seen all training images, so the
    validation split is the first half of the test images, and the test split the second half.

    Args:
        images: The .npz file.
        train: Training images used.
        mirrored: Whether each training image is there mirrored, too: unlike random changes while training, these let
            a teacher be asked once.
    """
    with np.load(images, allow_pickle=False) as archive:
        jpeg, offsets, labels, split = (archive[name] for name in ("jpeg", "offsets", "label", "split"))
    trained, tested = np.flatnonzero(split == 0), np.flatnonzero(split == 1)
    half = len(tested) // 2
    rows = {"train": trained[:train], "validation": tested[:half], "test": tested[half:]}
    splits = {
        name: (np.stack([_decode(jpeg, offsets, row) for row in part]), labels[part].astype(np.int64))
        for name, part in rows.items()
    }
    if mirrored:
        images_in, classes = splits["train"]
        splits["train"] = (np.concatenate([images_in, images_in[..., ::-1]]), np.concatenate([classes, classes]))
    return splits


def _decode(jpeg: np.ndarray, offsets: np.ndarray, row: int) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg[offsets[row] : offsets[row + 1]].tobytes())) as image:
        pixels = np.asarray(image, dtype=np.float32) / 255.0  # (32, 32, 3)
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1))
