"""Parity lets rounding pass and stops everything else, with the worst output and sample named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.exporting import check_parity
from targets.errors import InputError

WANTED = np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32)
SCALE = float(np.abs(WANTED).max())


@given(share=st.floats(0, 0.5), sample=st.integers(0, 5), scale=st.sampled_from([1e-3, 1.0, 1e5]))
@settings(deadline=None, max_examples=25)
def test_error_is_relative_to_the_largest_value(share: float, sample: int, scale: float) -> None:
    """The figure is the largest difference over the largest value, at any scale."""
    wanted = WANTED.astype(np.float64) * scale
    found = wanted.copy()
    found[sample, 1] += share * SCALE * scale
    assert check_parity({"y": found}, [wanted], tolerance=1.0)["y"] == pytest.approx(share, abs=1e-9)


def test_worst_output_and_sample_are_named() -> None:
    """Of two wrong outputs the worse one is told, with its sample, its error and what is allowed."""
    found = {"good": WANTED, "bad": WANTED.copy(), "worse": WANTED.copy()}
    found["bad"][1, 0] += 0.01 * SCALE
    found["worse"][4, 2] += 0.1 * SCALE
    with pytest.raises(InputError) as caught:
        check_parity(found, [WANTED] * 3, tolerance=1e-4)
    assert all(part in str(caught.value) for part in ("'worse'", "sample 4", "0.1 ", "0.0001"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["found", "wanted", "both"])
def test_values_that_are_not_finite_never_pass(value: float, side: str) -> None:
    """NaN and Inf on either side, or on both, are a difference."""
    found, wanted = WANTED.copy(), WANTED.copy()
    if side != "wanted":
        found[2, 1] = value
    if side != "found":
        wanted[2, 1] = value
    with pytest.raises(InputError, match="sample 2"):
        check_parity({"good": WANTED, "y": found}, [WANTED, wanted], tolerance=1e9)


def test_other_shape_is_named() -> None:
    """Both shapes are told."""
    with pytest.raises(InputError, match=r"(?s)'y' has shape \(6, 2\).*\(6, 4\)"):
        check_parity({"y": WANTED[:, :2]}, [WANTED], tolerance=1.0)


def test_nothing_to_compare_is_our_own_bug() -> None:
    """Zero comparisons never count as parity."""
    with pytest.raises(AssertionError):
        check_parity({}, [], tolerance=1.0)


def test_classes_and_masks_are_compared_too() -> None:
    """Integer and boolean outputs work like floats."""
    numbers, mask = np.arange(6), np.arange(6) > 2
    assert check_parity({"n": numbers, "m": mask}, [numbers, mask], tolerance=0.0) == {"n": 0.0, "m": 0.0}
    with pytest.raises(InputError, match="'m'"):
        check_parity({"n": numbers, "m": ~mask}, [numbers, mask], tolerance=0.5)
