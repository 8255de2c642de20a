"""The stage that calibrates: what it asks of its child."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.artifacts import DatasetInfo, OnnxModel
from pipeline.data import Dataset, Split
from pipeline.stages.base import Context
from pipeline.stages.calibrate import CalibrateInputs, CalibrateStage
from pipeline.tasks import Classification
from targets import process

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest


def calibrated(
    splits: Mapping[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Mapping[str, Any], Mapping[str, Any], list[str]]:
    """What is asked of the child for three samples, what the stage returns, and its warnings."""
    asked: list[Mapping[str, Any]] = []
    warned: list[str] = []
    io = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 1]}]}
    (tmp_path / "io.json").write_text(json.dumps(io), encoding="utf-8")
    (tmp_path / "out").mkdir()
    data: Any = SimpleNamespace(checked=lambda *_: Dataset(splits=splits))
    context = Context(
        progress=lambda *_, **__: None, warn=warned.append, scratch=tmp_path, state=tmp_path / "state", data=data
    )
    monkeypatch.setattr(process, "call_limited", lambda _, request, **__: asked.append(request) or {"findings": []})
    common: dict[str, Any] = {"digest": "d", "folder": tmp_path, "results": {}, "wall_s": 0.0}
    src = CalibrateInputs(data=DatasetInfo(node="data", **common), model=OnnxModel(node="import", **common))
    source: Any = None  # the data are given
    stage = CalibrateStage(
        source=source,
        task=Classification(),
        samples=3,
        min_samples=100,
        observe="sampled",
        memory_mb=64,
        threads=1,
    )
    found = stage.run(src, tmp_path / "out", context)
    return asked[0], found, warned


SPLIT = Split(inputs={"x": np.zeros((20, 1), np.float32)}, labels=np.arange(20) % 7)


def test_few_samples_are_judged_by_all_of_the_validation_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three samples of twenty keep their numbers, and every class of the validation split is one that they may lack."""
    splits = {"calibration": replace(SPLIT), "validation": replace(SPLIT)}
    request, found, warned = calibrated(splits, tmp_path, monkeypatch)
    assert request["numbers"] == [0, 9, 19]
    assert np.load(request["labels"]).tolist() == [0, 2, 5]
    assert set(np.load(request["validation_labels"]).tolist()) == set(range(7))
    assert not found["findings"]
    assert not warned


def test_samples_have_the_numbers_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: where splits are shares of a file, messages name rows of that file."""
    shared = replace(SPLIT, rows=np.arange(20)[::-1] * 2)
    request, _, _ = calibrated({"calibration": shared, "validation": SPLIT}, tmp_path, monkeypatch)
    assert request["numbers"] == [38, 20, 0]


def test_a_split_that_judges_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: where the validation split has to calibrate, a warning says so, for console and report."""
    _, found, warned = calibrated({"validation": SPLIT}, tmp_path, monkeypatch)
    assert [one["code"] for one in found["findings"]] == ["C-VALIDATION"]
    assert len(warned) == 1
