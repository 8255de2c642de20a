"""Weights for CPUs that add products in pairs of 16 bits: up to 8 bits wide, yet no input makes a pair overflow.

Inputs are unsigned, so a pair reaches at most 255 times the sum of its weights of one sign: what must stay within 128.
Seven bits (63 and 63) always do; wider weights do where their neighbours leave room. Which weights are neighbours is a
matter of kernels. ONNX Runtime lines a filter up as (kH, kW, C) and pairs k, k+1; OpenVINO pairs channels within each
position of the window. Both hold for even C; for odd C a weight has to fit both. Convolutions with one channel in each
group widen first in both, and have no pairs. Read from kernels, and held against both on an AVX2 machine.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Integers = NDArray[np.int32]
Floats = NDArray[np.float64]

MOST: Final = 128
"""Of two weights of one sign: 255 x 128 is below 2^15, 255 x 129 above."""

PAIRED_BITS: Final = 7
"""What a `QuantScheme` calls weights whose pairs must fit 16 bits: as wide as each other they have 7 bits."""

WIDE: Final = 127
"""The largest weight of all."""

_BEFORE_ROUNDING: Final = 127.99
"""Two real numbers of this sum round to integers of at most `MOST`: each rises by at most a half."""

_MATRIX: Final = 2


def paired_scales(weight: Array, axis: int, group: int) -> Floats | None:
    """The smallest scale of each channel whose rounded weights fit; None where pairs are not known (rank, axis).

    Args:
        weight: Of a Conv (O, I, k...) with ``axis`` 0, or a matrix with ``axis`` either one.
        axis: The axis of output channels.
        group: Of the convolution, 1 for a matrix.
    """
    lanes = _lanes(weight.astype(np.float64), axis)
    if lanes is None:
        return None
    largest: Floats = np.abs(lanes).max(axis=(1, 2), initial=0.0) / WIDE
    if _widens(weight, group):
        return largest
    reach = [np.maximum(*_sums(_paired(lanes, flat=flat))).max(axis=1, initial=0.0) for flat in _orders(lanes)]
    found: Floats = np.maximum.reduce([largest, *(one / _BEFORE_ROUNDING for one in reach)])
    return found


def fits(integers: Array, axis: int, group: int) -> bool:
    """Whether there are pairs and none of them can overflow; False where pairs are not known."""
    lanes = _lanes(integers.astype(np.int32), axis)
    if lanes is None or _widens(integers, group):
        return False
    sums = [one for flat in _orders(lanes) for one in _sums(_paired(lanes, flat=flat))]
    return all(int(one.max(initial=0)) <= MOST for one in sums)


def room(integers: Array, axis: int) -> tuple[Integers, Integers]:
    """How low and how high each integer may go while all others go as far as they may: same shapes as ``integers``.

    What a pair leaves free is shared equally by its two. Integers must fit (`fits`).
    """
    lanes = _lanes(integers.astype(np.int32), axis)
    assert lanes is not None
    high = np.full(lanes.shape, WIDE, np.int32)
    low = -high
    for flat in _orders(lanes):
        for sign, bound in ((1, high), (-1, low)):
            kept = np.maximum(sign * lanes, 0)
            mine = _paired(kept, flat=flat)
            free = MOST - mine.sum(axis=2)
            share = np.stack([free - free // 2, free // 2], axis=2)
            reached = sign * _unpaired(mine + share, lanes.shape, flat=flat)
            (np.minimum if sign > 0 else np.maximum)(bound, reached, out=bound)
    return _restored(low, integers, axis), _restored(high, integers, axis)


def _widens(weight: Array, group: int) -> bool:
    """Whether a convolution has one channel in and out of each of several groups."""
    return group > 1 and weight.shape[1] == 1 and weight.shape[0] == group


def _lanes(weight: NDArray[np.generic], axis: int) -> NDArray[np.generic] | None:
    """The weight as (channels, positions, inputs)."""
    if weight.ndim == _MATRIX:
        return np.moveaxis(weight, axis, 0)[:, None, :]
    if weight.ndim < _MATRIX or axis != 0:
        return None
    return np.moveaxis(weight, 1, -1).reshape(weight.shape[0], -1, weight.shape[1])


def _restored(lanes: Integers, like: Array, axis: int) -> Integers:
    if like.ndim == _MATRIX:
        return np.ascontiguousarray(np.moveaxis(lanes[:, 0, :], 0, axis))
    outer = (like.shape[0], *like.shape[2:], like.shape[1])
    return np.ascontiguousarray(np.moveaxis(lanes.reshape(outer), -1, 1))


def _orders(lanes: NDArray[np.generic]) -> tuple[bool, ...]:
    """In which orders neighbours are met, as ``flat`` of `_paired`: one suffices where both give the same pairs."""
    return (False, True) if lanes.shape[1] > 1 and lanes.shape[2] % 2 else (False,)


def _paired(lanes: NDArray[np.generic], *, flat: bool) -> NDArray[np.generic]:
    """(channels, pairs, 2): neighbours of the whole row, or within each position; a short pair has a zero."""
    rows = lanes.reshape(len(lanes), 1, -1) if flat else lanes
    padded = np.pad(rows, ((0, 0), (0, 0), (0, rows.shape[2] % 2)))
    return padded.reshape(len(lanes), -1, 2)


def _unpaired(pairs: NDArray[np.generic], shape: tuple[int, ...], *, flat: bool) -> NDArray[np.generic]:
    channels, positions, inputs = (shape[0], 1, shape[1] * shape[2]) if flat else shape
    rows = pairs.reshape(channels, positions, inputs + inputs % 2)
    return rows[:, :, :inputs].reshape(shape)


def _sums(pairs: NDArray[np.generic]) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Sums of each pair's positive parts, and of its negative ones."""
    return np.maximum(pairs, 0).sum(axis=2), -np.minimum(pairs, 0).sum(axis=2)
