"""Pictures: cut out of a padded frame, mirrored, with a square missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Array = npt.NDArray[Any]


def pad_crop(
    pictures: Array, pixels: int, labels: Array | None, rng: np.random.Generator
) -> tuple[Array, Array | None]:
    """A window of the old size at a random place of the padded picture (He et al., arXiv 1512.03385, section 4.2).

    Args:
        pictures: ``(N, C, H, W)``.
        pixels: Padding at each side: zeros; mirrored where labels move, for they have no zero.
        labels: ``(N, H, W)`` of one class a pixel, moved alike; None for none.
        rng: Chance.
    """
    rows, columns = rng.integers(0, 2 * pixels + 1, size=(2, len(pictures)))
    mode = "constant" if labels is None else "symmetric"
    moved = _windows(pictures, pixels, mode, rows, columns)
    return moved, None if labels is None else _windows(labels[:, None], pixels, mode, rows, columns)[:, 0]


def flip(pictures: Array, share: float, labels: Array | None, rng: np.random.Generator) -> tuple[Array, Array | None]:
    """Mirrors a random share of the pictures left to right, and their label maps with them."""
    chosen = rng.random(len(pictures)) < share
    pictures = np.where(chosen[:, None, None, None], pictures[..., ::-1], pictures)
    return pictures, None if labels is None else np.where(chosen[:, None, None], labels[..., ::-1], labels)


def cutout(pictures: Array, side: int, rng: np.random.Generator) -> Array:
    """Zeros in a square around a random pixel, cut at the border (DeVries, Taylor: arXiv 1708.04552, section 3.2)."""
    count, _, height, width = pictures.shape
    rows: Array = np.asarray(rng.integers(0, height, count))
    columns: Array = np.asarray(rng.integers(0, width, count))
    inside = _near(rows, height, side)[:, None, :, None] & _near(columns, width, side)[:, None, None, :]
    return np.where(inside, pictures.dtype.type(0), pictures)


def _windows(pictures: Array, pixels: int, mode: Any, rows: Array, columns: Array) -> Array:  # noqa: ANN401 - numpy's own literals
    height, width = pictures.shape[2:]
    padded = np.pad(pictures, ((0, 0), (0, 0), (pixels, pixels), (pixels, pixels)), mode=mode)
    views = sliding_window_view(padded, (height, width), axis=(2, 3))
    cut: Array = views[np.arange(len(pictures)), :, rows, columns]
    return cut


def _near(centres: Array, length: int, side: int) -> Array:
    start = (centres - side // 2)[:, None]
    places = np.arange(length)[None]
    near: Array = (places >= start) & (places < start + side)
    return near
