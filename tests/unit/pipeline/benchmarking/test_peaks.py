"""Peaks out of times: exact on made-up devices, refused when not usable, remembered for 30 days."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmarking import peaks
from pipeline.benchmarking.probes import Probe
from targets.errors import DeviceError

if TYPE_CHECKING:
    from pathlib import Path

DAY_S = 24 * 3600.0


def _probe(name: str, kind: str, operations: int) -> Probe:
    return Probe(name=name, kind=kind, operations=operations, inputs=(), optimization="all", model=b"")


PROBES = [
    _probe("d16", "dispatch", 16),
    _probe("d64", "dispatch", 64),
    _probe("small", "matmul.f32", 1000),
    _probe("large", "matmul.f32", 8000),
    _probe("odd", "matmul.u8s8", 500),
]


def _answer(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    times = {"d16": (9_000, 9_100), "d64": (21_000, 21_500), "small": (100, 101), "large": (400, 440), "odd": (50, 51)}
    answer = {
        "runtime_version": "1.0",
        "probes": {name: {"best_ns": best, "median_ns": median} for name, (best, median) in times.items()},
        "copies": {level: {"bytes": 4000 // k, "best_ns": 1000} for k, level in enumerate(("l2", "llc", "memory"), 1)},
        "caches": {"l2": 1 << 20, "llc": 1 << 23, "assumed": False},
        "skipped": {},
    }
    return {**answer, **changes}


def _evaluate(answer: dict[str, Any]) -> peaks.Calibration:
    return peaks.evaluate(PROBES, answer, identity="ab", affinity="default", threads=1, utc_s=1e9)


def test_peaks_are_the_best_size_of_each_kind() -> None:
    """8000 operations in 400 ns are 20e9 a second, more than 1000 in 100 ns: the kind's peak is the larger one."""
    found = _evaluate(_answer())
    assert found.peaks == {"matmul.f32": pytest.approx(20e9), "matmul.u8s8": pytest.approx(10e9)}
    assert found.bandwidth["l2"] == pytest.approx(4e9)
    assert found.dispatch_ns == pytest.approx(250)
    assert found.steadiness_ratio == pytest.approx(400 / 440)
    assert not found.noisy


def test_an_unsteady_calibration_is_called_noisy() -> None:
    """A median far slower than the best run marks the calibration."""
    answer = _answer()
    answer["probes"]["large"]["median_ns"] = 500
    assert _evaluate(answer).noisy


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 1e4), st.floats(0, 1e6), st.lists(st.integers(1, 500), min_size=2, max_size=6, unique=True))
def test_the_slope_is_the_cost_of_one_node_whatever_the_call_costs(
    each: float, fixed: float, lengths: list[int]
) -> None:
    """What a call costs by itself does not enter the dispatch cost."""
    assert peaks.slope([(n, fixed + each * n) for n in lengths]) == pytest.approx(each, rel=1e-3, abs=1e-3)


def _without(answer: dict[str, Any], *path: str) -> dict[str, Any]:
    document = json.loads(json.dumps(answer))
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return dict(document)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        _without(_answer(), "copies", "llc"),
        _without(_answer(), "probes", "d16"),
        _answer(probes=[]),
        _answer(caches={"l2": 0, "llc": 1, "assumed": False}),
        _answer(probes={**_answer()["probes"], "small": {"best_ns": -1, "median_ns": 3}}),
        _answer(probes={**_answer()["probes"], "small": {"best_ns": "x", "median_ns": 3}}),
        _answer(probes={**_answer()["probes"], "small": {"best_ns": float("inf"), "median_ns": 3}}),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error_of_the_device(answer: dict[str, Any]) -> None:
    """No peak is made up from a missing, negative or endless time."""
    with pytest.raises(DeviceError, match="calibration"):
        _evaluate(answer)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """A calibration survives its file, under state/devices/roofline-<id>.json."""
    found = _evaluate(_answer())
    peaks.write_calibration(tmp_path, found)
    assert (tmp_path / "devices" / "roofline-ab.json").is_file()
    assert peaks.read_calibration(tmp_path, "ab", 1e9 + DAY_S) == found


@pytest.mark.parametrize(("age_days", "kept"), [(0, True), (30, True), (30.1, False), (-1, False)])
def test_it_expires_after_30_days(tmp_path: Path, age_days: float, *, kept: bool) -> None:
    """An old calibration, and one from the future of a clock that was set back, is made again."""
    peaks.write_calibration(tmp_path, _evaluate(_answer()))
    assert (peaks.read_calibration(tmp_path, "ab", 1e9 + age_days * DAY_S) is not None) is kept


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", '{"schema": 1, "id": "ab"}', '{"schema": 9}'])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    """A file that cannot be read is made again, and ends nothing."""
    peaks.write_calibration(tmp_path, _evaluate(_answer()))
    peaks.calibration_path(tmp_path, "ab").write_text(text)
    assert peaks.read_calibration(tmp_path, "ab", 1e9) is None


def test_another_device_is_not_taken_for_this_one(tmp_path: Path) -> None:
    """The id inside the file counts, not its name."""
    peaks.write_calibration(tmp_path, replace(_evaluate(_answer()), id="cd"))
    peaks.calibration_path(tmp_path, "cd").rename(peaks.calibration_path(tmp_path, "ab"))
    assert peaks.read_calibration(tmp_path, "ab", 1e9) is None


def test_the_id_tells_device_runtime_threads_and_cpus_apart() -> None:
    """A calibration holds for one device, runtime version, number of threads and set of CPUs."""
    options = {"threads": 1, "providers": ["CPUExecutionProvider"], "allow_spinning": False}
    ids = {
        peaks.calibration_id("f", "1", options, "default"),
        peaks.calibration_id("g", "1", options, "default"),
        peaks.calibration_id("f", "2", options, "default"),
        peaks.calibration_id("f", "1", {**options, "threads": 2}, "default"),
        peaks.calibration_id("f", "1", options, "big"),
    }
    assert len(ids) == 5
