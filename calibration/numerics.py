"""The arithmetic of int8: scales, zero points, rounding. Pure numpy, no graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from targets.scheme import QuantScheme

Array = NDArray[np.generic]

MIN_SCALE: Final = 1e-8
"""Scales stay above this: engines refuse zero, and subnormal scales are slow."""

_BIAS_LIMIT: Final = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """``real = scale * (integer - zero)``.

    Attributes:
        scale: Positive, exactly a float32.
        zero: Zero point, a scalar array of the integer type.
    """

    scale: float
    zero: Array


def activation_affine(low: float, high: float, scheme: QuantScheme) -> Affine:
    """Scale and zero point for values in [low, high], widened to hold zero, which is always exact.

    A tensor that is zero everywhere gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    dtype = np.dtype(scheme.activation_dtype)
    limits = np.iinfo(scheme.activation_dtype)
    if low == high:
        middle = 0 if scheme.activation_symmetric or dtype.kind == "u" else limits.min
        return Affine(scale=1.0, zero=np.array(middle, dtype))
    if scheme.activation_symmetric:
        scale = np.float32(max(max(-low, high) / limits.max, MIN_SCALE))
        return Affine(scale=float(scale), zero=np.array(0, dtype))
    scale = np.float32(max((high - low) / (limits.max - limits.min), MIN_SCALE))
    zero = np.clip(np.rint(limits.min - low / float(scale)), limits.min, limits.max)
    return Affine(scale=float(scale), zero=np.array(zero, dtype))


def quantise(array: Array, affine: Affine) -> Array:
    """Rounded to nearest even and saturated, as ONNX QuantizeLinear does."""
    limits = np.iinfo(str(affine.zero.dtype))
    steps = np.rint(array.astype(np.float32) / np.float32(affine.scale)) + affine.zero.astype(np.int32)
    integers: Array = np.clip(steps, limits.min, limits.max).astype(affine.zero.dtype)
    return integers


def weight_scales(
    weight: Array,
    axis: int | None,
    bits: int,
    bias: Array | None,
    input_scale: float,
    *,
    smallest: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Symmetric scales: largest magnitude over 127 (63 for 7 bits), one per index of ``axis`` or a single one.

    A scale is raised where the bias, counted in ``input_scale * scale``, would not fit int32 (dead channels).
    ``smallest`` (one for each channel) takes the place of the largest magnitudes: what `calibration.pairs` allows.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    if smallest is None:
        largest = np.abs(weight).max(axis=None if axis is None else others).reshape(-1).astype(np.float64)
        smallest = largest / (2 ** (bits - 1) - 1)
    elif axis is None:
        smallest = smallest.max().reshape(-1)
    scales = np.maximum(smallest, MIN_SCALE)
    if bias is not None:
        needed = np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_LIMIT)
        scales = np.maximum(scales, needed if axis is not None else needed.max())
    return np.asarray(scales, np.float32)


def quantise_bias(bias: Array, scales: NDArray[np.float32]) -> NDArray[np.int32]:
    """Bias counted in ``scales`` (input scale x weight scale)."""
    return np.rint(bias.astype(np.float64) / scales.astype(np.float64)).astype(np.int32)
