"""The profile of what ships decides nothing: it is taken where it can be, and says why where it cannot."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from pipeline.artifacts import CandidateBuild, DatasetInfo, Measurement
from pipeline.data.dataset import Dataset, Split
from pipeline.stages.base import Context
from pipeline.stages.layers import LayersInputs, LayersStage, iterations
from targets.errors import DeviceError, DiskFailure, EdgepressError
from targets.profile import load_profile

FOUND = {
    "layers": [{"name": "conv"}], "wall_ns": 10, "outside_ns": 1, "pct": 50.0, "bound_by": {"compute": 1.0},
    "iterations": 20, "calibration_noisy": False,
}  # fmt: skip


@pytest.mark.parametrize(("latency_ms", "count"), [(None, 200), (0.01, 200), (15.0, 100), (1000.0, 10)])
def test_a_slow_engine_is_profiled_over_fewer_inferences(latency_ms: float | None, count: int) -> None:
    """A loop takes a second and a half or so, and never less than ten inferences."""
    assert iterations(latency_ms) == count


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: object) -> tuple[dict[str, Any], dict[str, Any]]:
    asked: dict[str, Any] = {}

    def profile(session: object, folder: Path, samples: Path, **options: object) -> object:
        asked.update(options, samples=samples.is_file(), session=session)
        if isinstance(outcome, EdgepressError):
            raise outcome
        return outcome

    monkeypatch.setattr("pipeline.benchmarking.layers.profile_engine", profile)
    held = SimpleNamespace(session=lambda: nullcontext("held"))
    monkeypatch.setattr("targets.devices.device", lambda name: held if name == "pi" else None)
    data = Dataset(splits={"validation": Split(inputs={"x": np.zeros((20, 3), np.float32)}, labels=None)})
    (tmp_path / "engine.json").write_text(
        json.dumps({"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}]}), encoding="utf-8"
    )
    shared = {"folder": tmp_path, "digest": "", "wall_s": 0.0}
    src = LayersInputs(
        data=DatasetInfo(node="data", results={}, **shared),
        measurement=Measurement(node="benchmark", results={"latencies_ms": {"int8": 15.0}}, **shared),
        build=CandidateBuild(node="build:int8", results={}, **shared),
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    context = Context(
        progress=cast("Any", lambda *_: None), warn=lambda _text: None, scratch=scratch, state=tmp_path / "state",
        data=cast("Any", SimpleNamespace(checked=lambda *_: data)),
    )  # fmt: skip
    stage = LayersStage(source=cast("Any", None), profile=load_profile("raspberry-pi-4"), device="pi", fingerprint="f")
    return dict(stage.run(src, tmp_path, context)), asked


def test_the_profile_is_kept_with_its_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device that was measured, briefly, with real samples."""
    results, asked = run(tmp_path, monkeypatch, FOUND)
    assert (results["candidate"], results["device"], results["nodes"], results["pct"]) == ("int8", "pi", 1, 50.0)
    assert json.loads((tmp_path / "layers.json").read_text("utf-8")) == FOUND
    assert (asked["iterations"], asked["brief"], asked["samples"], asked["session"]) == (100, True, True, "held")


def test_a_device_that_fails_costs_the_table_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundle is there already: a missing profile is a reason in the report."""
    results, _ = run(tmp_path, monkeypatch, DeviceError("the device is gone", "no answer", "plug it in"))
    assert results == {"candidate": "int8", "device": "pi", "why": "the device is gone: no answer"}
    assert not (tmp_path / "layers.json").exists()


def test_a_full_disk_is_no_reason_but_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next stage would meet it too."""
    with pytest.raises(DiskFailure):
        run(tmp_path, monkeypatch, DiskFailure("the disk is full", "no space", "make room"))
