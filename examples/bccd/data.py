"""BCCD from one .npz: arrays `jpeg`, `offsets`, `boxes`, `box_class`, `box_offsets`, `split` (train, val, test)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, MOST = 160, 120, 30


def bccd(images: Path, *, flips: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images (N, 3, 120, 160) from -1 to 1; boxes (N, 30, 5): class, left, top, right, bottom as shares, -1 padding.

    The sets' own splits; mirrored copies of the training images stand in the training split too.

    Args:
        images: The .npz file.
        flips: Whether to add the mirrored copies.
    """
    with np.load(images, allow_pickle=False) as archive:
        jpeg, offsets, split = (archive[name] for name in ("jpeg", "offsets", "split"))
        corners, classes, bounds = (archive[name] for name in ("boxes", "box_class", "box_offsets"))
    count = len(split)
    pixels, sizes = zip(*(_decoded(jpeg[offsets[i] : offsets[i + 1]]) for i in range(count)), strict=True)
    inputs = np.stack(pixels)
    labels = np.stack(
        [
            _padded(corners[bounds[i] : bounds[i + 1]], classes[bounds[i] : bounds[i + 1]], sizes[i])
            for i in range(count)
        ]
    )
    found = {
        name: (inputs[split == at], labels[split == at]) for at, name in enumerate(("train", "validation", "test"))
    }
    if flips:
        found["train"] = _with_mirrored(*found["train"])
    return found


def _decoded(data: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    with Image.open(io.BytesIO(data.tobytes())) as image:
        small = image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.float32) / 127.5 - 1.0
        return np.ascontiguousarray(pixels.transpose(2, 0, 1)), image.size


def _padded(corners: np.ndarray, classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One row a box that has an area, as shares of the image."""
    shares = np.clip((corners - 1) / np.array([*size, *size]), 0, 1)  # the files count pixels from 1
    real = (shares[:, 2] > shares[:, 0]) & (shares[:, 3] > shares[:, 1])
    rows = np.column_stack([classes, shares])[real]
    padded = np.full((MOST, 5), -1.0, dtype=np.float32)
    padded[: len(rows)] = rows
    return padded


def _with_mirrored(inputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The samples, and each of them upside down and left to right."""
    images, boxes = [inputs], [labels]
    there = labels[..., 0] >= 0
    for axis, low, high in ((3, 1, 3), (2, 2, 4)):
        turned = labels.copy()
        turned[..., low] = np.where(there, 1 - labels[..., high], -1)
        turned[..., high] = np.where(there, 1 - labels[..., low], -1)
        images.append(np.flip(inputs, axis=axis))
        boxes.append(turned)
    return np.concatenate(images), np.concatenate(boxes)
