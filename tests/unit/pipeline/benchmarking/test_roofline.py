"""The roofline: limits add up, labels follow the larger limit, nothing is clipped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarking.peaks import Calibration
from pipeline.benchmarking.roofline import bandwidth_of, peak_of, roofline, without_profiler
from pipeline.benchmarking.work import Weight

DISPATCH_NS = 100.0


def _calibration(**changes: Any) -> Calibration:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "id": "ab", "runtime_version": "1", "threads": 1, "affinity": "default", "peaks": {"matmul.f32": 1e9},
        "bandwidth": {"l2": 4e9, "llc": 2e9, "memory": 1e9}, "caches": {"l2": 1000, "llc": 10_000, "assumed": False},
        "dispatch_ns": DISPATCH_NS, "steadiness_ratio": 1.0, "noisy": False, "skipped": {}, "utc_s": 0.0,
    }  # fmt: skip
    return Calibration(**{**fields, **changes})


def _node(name: str, op: str, median_ns: float, read: list[int], written: list[int]) -> dict[str, Any]:
    return {
        "name": name, "op": op, "provider": "CPU", "median_ns": median_ns, "share_ratio": 0.5,
        "inputs": [["float", read]], "outputs": [["float", written]],
    }  # fmt: skip


def _run(nodes: list[dict[str, Any]], wall_ns: float, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    profile = {"nodes": nodes, "wall_median_ns": wall_ns, "profiled_wall_median_ns": wall_ns * 2}
    weights = {"m": Weight(op="MatMul", shape=(10, 10), dtype="float")}
    return roofline(profile, weights, {"m": "head"}, _calibration(**changes))


def test_a_product_is_held_against_its_peak() -> None:
    """1 x 10 by 10 x 10 is 200 operations: 200 ns at 1e9 a second, and 100 ns to start it."""
    found = _run([_node("m", "MatMul", 600.0, [1, 10], [1, 10])], 600.0)
    [layer] = found["layers"]
    assert layer["compute_ns"] == 200
    assert layer["memory_ns"] == round(400 / 4e9 * 1e9 + 80 / 4e9 * 1e9)
    assert layer["attainable_ns"] == 300
    assert (layer["bound"], layer["pct"], layer["module"]) == ("compute", 50.0, "head")
    assert found["pct"] == 50.0
    assert found["losses"] == [{"name": "m", "module": "head", "op": "MatMul", "bound": "compute", "loss_ms": 0.0003}]


def test_labels_follow_the_largest_limit() -> None:
    """A large copy is memory-bound, a tiny one overhead-bound."""
    nodes = [_node("big", "Add", 50_000.0, [1, 5000], [1, 5000]), _node("tiny", "Add", 500.0, [1, 2], [1, 2])]
    found = _run(nodes, 60_000.0)
    assert [layer["bound"] for layer in found["layers"]] == ["memory", "overhead"]
    assert found["layers"][0]["memory_ns"] == 40_000  # 40 kB are beyond the last cache
    assert sum(found["bound_by"].values()) == pytest.approx(1, abs=1e-3)
    assert found["outside_ns"] == 9500


def test_more_than_possible_is_shown_and_explained() -> None:
    """Above 105 % the model of the machine is wrong: said, not clipped."""
    found = _run([_node("m", "MatMul", 150.0, [1, 10], [1, 10])], 150.0)
    assert found["pct"] == 200.0
    assert "Winograd" in found["explanation"]
    assert found["losses"] == []


def test_a_noisy_calibration_is_passed_on() -> None:
    """The percentage of a noisy calibration carries the mark."""
    found = _run([_node("m", "MatMul", 600.0, [1, 10], [1, 10])], 600.0, noisy=True)
    assert found["calibration_noisy"]
    assert found["quality"] == "noisy"


def test_at_most_five_losses_are_listed_largest_first() -> None:
    """The list is a place to start, not the table again."""
    nodes = [_node(f"n{i}", "Add", 1000.0 * (i + 2), [1, 2], [1, 2]) for i in range(8)]
    losses = [loss["loss_ms"] for loss in _run(nodes, 1e6)["losses"]]
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)


def test_an_unknown_peak_is_said() -> None:
    """Where nothing comparable was measured, only bytes count, and the layer says so."""
    [layer] = _run([_node("m", "MatMul", 600.0, [1, 10], [1, 10])], 600.0, peaks={"matmul.u8s8": 1e9})["layers"]
    assert not layer["peak_known"]
    assert layer["compute_ns"] == 0


def test_a_missing_peak_is_taken_from_the_nearest_kind_of_the_same_types() -> None:
    """A convolution may stand in for another, never one pair of types for another, never depthwise."""
    peaks = {"conv3x3.u8s8": 3.0, "matmul.s8s8": 5.0, "conv1x1.f32": 7.0}
    assert peak_of("conv1x1.u8s8", peaks) == 3.0
    assert peak_of("conv3x3.s8s8", peaks) == 5.0
    assert peak_of("depthwise.f32", peaks) is None
    assert peak_of("conv3x3.f16", peaks) is None


def test_a_nearer_cache_is_never_slower_than_what_lies_behind_it() -> None:
    """A disturbed measurement of a cache does not make its data cheaper to fetch from memory."""
    calibration = _calibration(bandwidth={"l2": 1e9, "llc": 2e9, "memory": 3e9})
    assert bandwidth_of(10, calibration) == 3e9
    assert bandwidth_of(5000, _calibration()) == 2e9
    assert bandwidth_of(50_000, _calibration()) == 1e9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30), st.floats(1, 1e7))
def test_times_without_the_profiler_add_up_to_the_wall_time(medians: list[float], wall: float) -> None:
    """Never more than was measured, never below zero, in the same order, and together the wall time."""
    own, cost = without_profiler(medians, wall)
    assert all(0 <= mine <= seen for mine, seen in zip(own, medians, strict=True))
    assert sum(own) == pytest.approx(min(wall, sum(medians)), rel=1e-6)
    assert (cost > 0) == (sum(medians) > wall)
    assert sorted(range(len(own)), key=lambda i: medians[i]) == sorted(
        range(len(own)), key=lambda i: (own[i], medians[i])
    )


def test_the_profilers_cost_comes_back() -> None:
    """Nodes of 10, 20 and 30 ns with 5 ns of profiler on each, in an inference of 60 ns."""
    own, cost = without_profiler([15, 25, 35], 60)
    assert own == [10, 20, 30]
    assert cost == 5
