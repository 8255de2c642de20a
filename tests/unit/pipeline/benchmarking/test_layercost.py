"""What float costs in a layer is the ratio of two engines in the same block, not a difference of two averages."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.benchmarking.layercost import costs_of
from targets.errors import DeviceError


def _row(engine: int, block: int, us: float, **more: object) -> dict[str, Any]:
    return {"engine": str(engine), "block": block, "median_ns": us * 1e3, **more}


def test_costs_are_paired_by_block() -> None:
    """Promise: a device that slows down between blocks changes no cost: each block compares with itself."""
    rows = []
    for block, speed in enumerate((1.0, 2.0, 4.0)):
        rows += [_row(0, block, 100 * speed), _row(1, block, 110 * speed), _row(2, block, 95 * speed)]
    found = costs_of(rows, ["a", "b"], "here")
    assert (found.blocks, found.device) == (3, "here")
    assert found.whole_us == pytest.approx(200)
    assert found.layers["a"].us == pytest.approx(20)
    assert found.layers["b"].us == pytest.approx(-10)
    assert found.layers["a"].low_us == pytest.approx(20)


def test_intervals_hold_the_scatter_between_blocks() -> None:
    """Promise: a layer whose ratio scatters has a wide interval; one block alone has none."""
    rows = [_row(0, 0, 100), _row(1, 0, 105), _row(0, 1, 100), _row(1, 1, 115)]
    cost = costs_of(rows, ["a"], "here").layers["a"]
    assert cost.low_us is not None
    assert cost.high_us is not None
    assert cost.low_us < 5
    assert cost.high_us > 15
    alone = costs_of(rows[:2], ["a"], "here").layers["a"]
    assert (alone.us, alone.low_us, alone.high_us) == (5.0, None, None)


def test_blocks_that_do_not_count_are_left_out() -> None:
    """Promise: discarded and unfinished blocks say nothing, and without any other there is an error, not a guess."""
    rows = [_row(0, 0, 100), _row(1, 0, 900, discarded="sentinel"), _row(0, 0, 100), _row(1, 0, 110), _row(0, 1, 100)]
    assert costs_of(rows, ["a"], "here").blocks == 1
    with pytest.raises(DeviceError, match="no block of all 2 engines"):
        costs_of(rows[-1:], ["a"], "here")
