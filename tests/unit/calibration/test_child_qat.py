"""Promises of the child that trains a Q/DQ file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from calibration.child import quantize_in_child
from calibration.fidelity import Judge
from calibration.samples import CalibrationSet
from pipeline.training.quantized import train_in_child
from targets.errors import InputError
from targets.process import Limits, call_limited

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.fixture
def request_of(residual: Path, images: NDArray[np.float32], tmp_path: Path) -> dict[str, object]:
    np.savez(tmp_path / "samples.npz", x=images)
    np.savez(tmp_path / "training.npz", x=np.random.default_rng(5).standard_normal((96, 3, 8, 8)).astype(np.float32))
    np.savez(tmp_path / "validation.npz", x=np.random.default_rng(6).standard_normal((64, 3, 8, 8)).astype(np.float32))
    (tmp_path / "out").mkdir()
    request: dict[str, object] = {
        "model": str(residual),
        "samples": str(tmp_path / "samples.npz"),
        "scheme": "ort-x86-avx2",
        "method": "minmax",
        "threads": 1,
        "batch_size": 32,
        "seed": 0,
        "out_folder": str(tmp_path / "out"),
    }
    quantize_in_child(request)
    return request | {
        "quantized": str(tmp_path / "out" / "model.onnx"),
        "training": str(tmp_path / "training.npz"),
        "validation": str(tmp_path / "validation.npz"),
        "task": "fidelity",
        "section": {"epochs": 10},
        "time_budget_s": 3600.0,
        "out": str(tmp_path / "trained.onnx"),
    }


def test_the_best_epoch_is_written(request_of: dict[str, object], residual: Path, tmp_path: Path) -> None:
    """Promise: the best of ten epochs and the start is written, by the task's score; nodes as before; it repeats."""
    found = train_in_child(request_of)
    assert (found["epochs_run"], found["training_samples"]) == (10, 96)
    scores = [row["accuracy"] for row in found["curve"]]  # type: ignore[attr-defined]
    assert found["kept_epoch"] == 0 or scores[found["kept_epoch"] - 1] == max(scores)  # type: ignore[operator]
    held = CalibrationSet({"x": np.load(tmp_path / "samples.npz")["x"][4::5]}, batch_size=32)
    told = Judge(residual, held, threads=1)(tmp_path / "trained.onnx")
    assert (found["output_snr_db"], found["agreement"]) == (told.snr_db, told.agreement)
    before, after = (onnx.load(str(request_of[name])) for name in ("quantized", "out"))
    assert [node.name for node in before.graph.node] == [node.name for node in after.graph.node]
    data = (tmp_path / "trained.onnx").read_bytes()
    assert train_in_child(request_of) == found
    assert (tmp_path / "trained.onnx").read_bytes() == data


@pytest.mark.long
def test_an_interrupted_training_of_the_int8_file_goes_on(request_of: dict[str, object], tmp_path: Path) -> None:
    """Promise: stopped in its third epoch and begun again, it ends with the same bytes, and tells every epoch once."""
    whole = train_in_child(request_of | {"section": {"epochs": 4}})
    data = (tmp_path / "trained.onnx").read_bytes()
    request = request_of | {"section": {"epochs": 4}, "checkpoints": str(tmp_path / "kept")}
    heard: list[Any] = []

    def hear(message: Mapping[str, Any]) -> None:
        heard.append(message)
        if message["kind"] == "step" and message["result"]["epoch"] == 3 and len(heard) < 100:
            heard.extend([{"kind": "stopped"}] * 100)
            raise KeyboardInterrupt

    def call() -> dict[str, object]:
        return call_limited(
            "pipeline.training.quantized:train_in_child", request, limits=Limits(timeout_s=250), what="QAT", hear=hear
        )

    with pytest.raises(KeyboardInterrupt):
        call()
    before = len(heard)
    assert call() == whole
    assert (tmp_path / "trained.onnx").read_bytes() == data
    assert heard[0] == {"kind": "begin", "epochs": 4, "steps": 12, "metric": "fidelity"}
    again = heard[before:]
    assert [m["result"]["epoch"] for m in again if m["kind"] == "epoch"] == [1, 2, 3, 4]
    assert min(m["result"]["epoch"] for m in again if m["kind"] == "step") > 2


def test_training_samples_of_another_shape_are_refused(request_of: dict[str, object], tmp_path: Path) -> None:
    """Both sides are named before anything is trained."""
    np.savez(tmp_path / "training.npz", x=np.zeros((8, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"training samples are .*4, 4"):
        train_in_child(request_of)
