"""Signals and spectrograms: moved in time, with noise, with bands missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def shift(signals: Array, most: int, rng: np.random.Generator) -> Array:
    """Moves each signal by up to ``most`` steps to either side of the last axis; zeros come in.

    Args:
        signals: ``(N, ..., T)``, floating point.
        most: Steps.
        rng: Chance.
    """
    length = signals.shape[-1]
    steps = rng.integers(-most, most + 1, len(signals))
    source = np.arange(length)[None] - steps[:, None]
    inside = (source >= 0) & (source < length)
    spread = (len(signals), *[1] * (signals.ndim - 2), length)
    moved = np.take_along_axis(signals, np.clip(source, 0, length - 1).reshape(spread), axis=-1)
    shifted: Array = np.where(inside.reshape(spread), moved, signals.dtype.type(0))
    return shifted


def add_noise(signals: Array, deviation: float, rng: np.random.Generator) -> Array:
    """Adds normal noise of that standard deviation to every number."""
    noise = rng.standard_normal(signals.shape, dtype=np.float32) * np.float32(deviation)
    noisy: Array = signals + noise.astype(signals.dtype)
    return noisy


def mask_bands(spectra: Array, axis: int, count: int, width: int, rng: np.random.Generator) -> Array:
    """Zeros in ``count`` bands of random width and place (SpecAugment: Park et al., arXiv 1904.08779, section 2).

    Args:
        spectra: ``(N, ..., bands, time)``.
        axis: -1 masks times, -2 frequencies.
        count: Bands a sample.
        width: The largest of a band, 0 to it inclusive.
        rng: Chance.
    """
    length = spectra.shape[axis]
    for _ in range(count):
        widths = rng.integers(0, min(width, length) + 1, len(spectra))
        starts = (rng.random(len(spectra)) * (length - widths + 1)).astype(np.int64)
        places = np.arange(length)[None]
        inside = (places >= starts[:, None]) & (places < (starts + widths)[:, None])
        spread = [len(spectra), *[1] * (spectra.ndim - 1)]
        spread[axis] = length
        spectra = np.where(inside.reshape(spread), spectra.dtype.type(0), spectra)
    return spectra
