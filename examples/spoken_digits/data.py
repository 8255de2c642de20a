"""Spoken digits from one .npz: arrays `samples` (int16, 8 kHz), `offsets`, `digit`, `take`, `split` (0 train, 1 test).

The log-mel front end is here, in numpy: the device runs it once a recording, in a few lines, and the network gets
spectra whose values int8 can hold.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

RATE, WINDOW, HOP, BANDS, SECONDS = 8000, 256, 128, 40, 1.0


def spoken_digits(recordings: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Log-mel spectra (N, 1, bands, frames) float32 of one second each, cut or padded; labels 0 to 9.

    Takes 0 to 4 are the official test split; 5 to 9 are for validation, the other 40 for training.
    """
    with np.load(recordings, allow_pickle=False) as archive:
        samples, offsets, digits, take, split = (
            archive[name] for name in ("samples", "offsets", "digit", "take", "split")
        )
    spectra = np.stack([log_mel(samples[a:b]) for a, b in itertools.pairwise(offsets)])[:, np.newaxis]
    chosen = {"train": (split == 0) & (take >= 10), "validation": (split == 0) & (take < 10), "test": split == 1}
    mean, std = spectra[chosen["train"]].mean(), spectra[chosen["train"]].std()
    spectra = ((spectra - mean) / std).astype(np.float32)
    return {name: (spectra[rows], digits[rows].astype(np.int64)) for name, rows in chosen.items()}


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Log power in mel bands, (bands, frames), of int16 samples."""
    wave = np.zeros(int(RATE * SECONDS))
    wave[: min(len(wave), len(samples))] = samples[: len(wave)] / 32768
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return np.log(power @ _filters() + 1e-6).T


def _filters() -> np.ndarray:
    """Triangles on the mel scale (O'Shaughnessy, 1987), (frequencies, bands)."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    frequencies = np.fft.rfftfreq(WINDOW, 1 / RATE)[:, np.newaxis]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)
