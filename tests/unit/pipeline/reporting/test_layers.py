"""Layers and ranges in run.json: joined by node and module, and nothing claimed that is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts import LayerTimes, QuantizedModel
from pipeline.reporting.layers import calibration_rows, layer_rows, timed_rows
from pipeline.reporting.schema_layers import Calibrated, Layer
from pipeline.reporting.schema_layers import LayerTimes as Times

QUANTIZED = [
    {"node": "conv_1", "module": "stem", "op": "Conv", "precision": "int8", "reason": "", "weight_snr_db": 44.0,
     "output_snr_db": 39.0, "output_shape": [1, 8, 4, 4], "sensitivity_db": 50.0, "macs": 100},
    {"node": "mean_1", "module": "", "op": "ReduceMean", "precision": "float", "reason": "no int8 kernel",
     "weight_snr_db": None, "output_snr_db": None, "output_shape": None},
    {"node": "gemm_1", "module": "head", "op": "Gemm", "precision": "int8", "reason": "", "weight_snr_db": 41.0},
]  # fmt: skip


def profiled(name: str, module: str | None, op: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        "name": name, "module": module, "op": op, "kind": "conv3x3.u8s8", "own_ns": 3_000, "bound": "compute",
        "peak_known": True, "pct": 80.0, "outputs": [["uint8", [1, 8, 4, 4]]], **more,
    }  # fmt: skip


def quantized(folder: Path) -> QuantizedModel:
    bars = {"low": -1.0, "high": 1.0, "counts": [1, 2]}
    facts = {"low": -2.0, "high": 2.0, "outside_ratio": {"mse": 0.01}}
    documents: dict[str, Any] = {
        "layers.json": QUANTIZED,
        "modules.json": {"mean_1": "pool", "t1": "stem"},
        "calibration.json": {
            "tensors": {"t0": {"mse": [0.0, 1.0]}, "t1": {"mse": [-1.0, 1.0]}, "t2": {"mse": [0.0, 9.0]}},
            "facts": {"t1": {**facts, "snr_db": {"mse": 20.0}}, "t2": {**facts, "snr_db": {"mse": 30.0}}},
            "histograms": {"t1": bars},
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return QuantizedModel(node="quantize", folder=folder, digest="", results={"method": "mse"}, wall_s=0.0)


def test_layers_carry_module_shape_and_every_noise(tmp_path: Path) -> None:
    """By the quantiser's name of the module, else the exporter's, else the node; what is unknown stays empty."""
    rows = [Layer(**row) for row in layer_rows(quantized(tmp_path))]
    assert [row.name for row in rows] == ["stem", "pool", "head"]
    assert (rows[0].snr_db, rows[0].weight_snr_db, rows[0].alone_db, rows[0].shape) == (39.0, 44.0, 50.0, (1, 8, 4, 4))
    assert (rows[1].snr_db, rows[1].shape, rows[1].note) == (None, (), "no int8 kernel")


def test_times_are_joined_with_noise_by_node_or_by_the_only_layer_of_a_module(tmp_path: Path) -> None:
    """Names as a runtime changes them are found; an int8 figure is never put beside a float engine."""
    known = layer_rows(quantized(tmp_path))
    rows = [
        profiled("conv_1_quant", "stem", "QLinearConv"),
        profiled("fused_9", "head", "QGemm", kind="matmul.u8s8"),
        profiled("reorder", None, "ReorderInput", kind=None, outputs=[["float", [1, 8]]], peak_known=False),
    ]
    (tmp_path / "layers.json").write_text(json.dumps({"layers": rows}), encoding="utf-8")
    results = {"candidate": "int8", "device": "pi", "wall_ns": 12_000, "outside_ns": 3_000, "pct": 60.0,
               "iterations": 100, "calibration_noisy": False}  # fmt: skip
    times = LayerTimes(node="layers", folder=tmp_path, digest="", results=results, wall_s=1.0)
    found = Times(**timed_rows(times, known))
    assert [row.snr_db for row in found.rows] == [39.0, None, None]  # the head's output was not compared
    assert [row.precision for row in found.rows] == ["int8", "int8", "fp32"]
    assert [row.bound for row in found.rows] == ["compute", "compute", ""]
    assert sum(row.share_ratio for row in found.rows) == pytest.approx(1.0)
    assert {row.snr_db for row in Times(**timed_rows(times, ())).rows} == {None}


def test_no_times_but_a_reason(tmp_path: Path) -> None:
    """A device that failed, or an engine whose layers nobody can time."""
    results = {"candidate": "int8", "device": "pi", "why": "the device is gone"}
    times = LayerTimes(node="layers", folder=tmp_path, digest="", results=results, wall_s=1.0)
    found = Times(**timed_rows(times, ()))
    assert (found.why, found.rows) == ("the device is gone", ())


def test_the_tensors_that_eight_bits_cost_most_come_first(tmp_path: Path) -> None:
    """With what was seen, what is clipped, and the histogram where one was kept; without facts last."""
    rows = [Calibrated(**row) for row in calibration_rows(quantized(tmp_path))]
    assert [row.tensor for row in rows] == ["t1", "t2", "t0"]
    assert (rows[0].module, rows[0].seen_low, rows[0].outside_ratio, rows[0].snr_db) == ("stem", -2.0, 0.01, 20.0)
    assert rows[0].histogram is not None
    assert rows[0].histogram.counts == (1, 2)
    assert rows[1].histogram is None
