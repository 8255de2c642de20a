"""Promises of the int8 arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.numerics import activation_affine, quantise, quantise_bias, weight_scales
from targets.scheme import scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

X86 = scheme("ort-x86")
ends = st.floats(-1e6, 1e6, width=32)


@settings(max_examples=100, deadline=None)
@given(ends, ends)
def test_zero_is_exact_and_scales_are_positive(one: float, two: float) -> None:
    """Every range gives a positive scale and an integer that means exactly zero."""
    affine = activation_affine(min(one, two), max(one, two), X86)
    assert affine.scale > 0.0
    assert affine.scale == float(np.float32(affine.scale))
    assert quantise(np.zeros(1, np.float32), affine)[0] == affine.zero


@settings(max_examples=100, deadline=None)
@given(st.floats(-100, 0), st.floats(0, 100), hnp.arrays(np.float32, 50, elements=st.floats(0, 1, width=32)))
def test_values_inside_the_range_come_back_within_half_a_step(
    low: float, high: float, shares: NDArray[np.float32]
) -> None:
    """Inside the range, quantise and dequantise differ from the value by half a step, one at the rounded ends."""
    affine = activation_affine(low, high, X86)
    inside = (low + shares.astype(np.float64) * (high - low)).astype(np.float32)
    integers = quantise(inside, affine)
    back = affine.scale * (integers.astype(np.float64) - float(affine.zero))
    error = np.abs(back - inside)
    middle = (integers > 0) & (integers < 255)
    assert np.all(error[middle] <= affine.scale * 0.5001 + 1e-9)
    assert np.all(error <= affine.scale * 1.0001 + 1e-9)


def test_values_outside_saturate() -> None:
    """Values beyond the range become its ends."""
    affine = activation_affine(0.0, 6.0, X86)
    assert quantise(np.array([-1.0, 0.0, 6.0, 60.0], np.float32), affine).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (7, 63)])
@pytest.mark.parametrize("axis", [0, 1, None])
def test_weight_scales_use_all_levels(bits: int, limit: int, axis: int | None) -> None:
    """The largest weight of each channel becomes the last integer level, per channel and per tensor."""
    weight = np.random.default_rng(0).standard_normal((4, 5, 3, 3)).astype(np.float32)
    scales = weight_scales(weight, axis, bits, None, 1.0)
    shape = [1] * 4
    if axis is not None:
        shape[axis] = -1
    integers = np.rint(weight / scales.reshape(shape))
    others = tuple(i for i in range(4) if i != axis)
    assert np.all(np.abs(integers).max(axis=others if axis is not None else None) == limit)


def test_dead_channel_keeps_its_bias() -> None:
    """A channel of zero weights gets a scale at which its bias fits int32 to a relative 1e-6."""
    weight = np.zeros((2, 3), np.float32)
    bias = np.array([0.0, 123.0], np.float32)
    scales = weight_scales(weight, 0, 8, bias, 0.01)
    steps = np.float32(0.01) * scales
    back = quantise_bias(bias, steps) * steps.astype(np.float64)
    assert np.all(scales > 0.0)
    assert back == pytest.approx(bias, rel=1e-6)
