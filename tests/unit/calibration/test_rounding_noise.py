"""Promises of what eight bits cost an activation by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.collect import collect
from calibration.histogram import Histogram
from calibration.rounding_noise import BARS, WORST, bars_of, expected_snr_db
from calibration.samples import CalibrationSet
from calibration.table import CalibrationTable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    histogram.update(values)
    return histogram


@pytest.mark.parametrize("clip", [1.0, 0.5, 0.2])
def test_the_forecast_is_what_rounding_really_does(clip: float) -> None:
    """Against real rounding of real values to 256 levels, clipped values included, within 0.3 dB."""
    values = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)
    low, high = float(values.min()) * clip, float(values.max()) * clip
    step = (high - low) / 255
    rounded = low + np.clip(np.rint((values - low) / step), 0, 255) * step
    real = 10 * np.log10(np.square(values).sum() / np.square(values - rounded).sum())
    assert expected_snr_db(histogram_of(values), low, high) == pytest.approx(real, abs=0.3)


def test_zeros_cost_nothing_and_are_no_signal() -> None:
    """A Relu's many zeros do not sway the figure; without any other value there is none."""
    values = np.abs(np.random.default_rng(2).standard_normal(5_000).astype(np.float32)) + 0.01
    padded = np.concatenate([values, np.zeros(50_000, np.float32)])
    high = float(values.max())
    assert expected_snr_db(histogram_of(padded), 0.0, high) == expected_snr_db(histogram_of(values), 0.0, high)
    assert expected_snr_db(histogram_of(np.zeros(9, np.float32)), 0.0, 0.0) is None


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200))
def test_bars_hold_every_value_and_are_few(values: list[float]) -> None:
    """Nothing is lost, the bars span what was seen, and there are at most 64."""
    array = np.asarray(values, np.float32)
    bars = bars_of(histogram_of(array))
    assert sum(bars.counts) == len(values)
    assert len(bars.counts) <= BARS
    assert bars.low <= array.min()
    assert bars.high >= array.max()


def test_a_table_keeps_the_histograms_of_the_worst(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> None:
    """A few tensors, the worst first, and they come back from the disk as they were."""
    table = collect(residual, CalibrationSet({"x": images}, batch_size=16), threads=1)
    best = {name: max(facts.snr_db.values()) for name, facts in table.facts.items()}
    kept = [*table.histograms]
    assert 1 <= len(kept) <= WORST
    assert max(best[name] for name in kept) <= sorted(set(best.values()))[len(kept) - 1]  # a clamp shares its source's
    table.save(tmp_path / "table.json")
    assert CalibrationTable.load(tmp_path / "table.json") == table
