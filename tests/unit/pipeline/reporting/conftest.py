"""A run with everything in it, and one with as little as there can be."""

from __future__ import annotations

import copy
from typing import Any

import pytest

_FASTER = {"reference": "fp32", "ratio": 2.0, "ci95": [1.94, 2.06], "verdict": "faster"}


def _candidate(name: str, latency_ms: float, *, shipped: bool = False) -> dict[str, Any]:
    return {
        "name": name, "precision": "int8" if shipped else "fp32", "accuracy": 0.9833, "accuracy_test": 0.9778,
        "size_bytes": 149_000, "parameters": 130_474, "macs": 20_100_000,
        "latency_ms": {"value": latency_ms, "ci95": [latency_ms * 0.98, latency_ms * 1.02], "k": 3},
        "p90_ms": latency_ms * 1.1, "p90_note": "n = 300, at most 0.3 ms", "p99_ms": None,
        "p99_note": "need 662, have 300", "throughput_ips": 4000.0, "load_ms": 14.2, "first_ms": 1.5,
        "peak_memory_bytes": 61_400_000, "load_peak_bytes": 70_000_000, "quality": "B",
        "quality_reasons": ["W-VIRTUAL"],
        "quantiles_ms": [latency_ms * (1 + i / 100) for i in range(20)],
        "shipped": shipped, "reasons": ["within the floor"],
        "block_medians_ms": [latency_ms, latency_ms * 1.01, latency_ms * 0.99],
        "vs_reference": _FASTER if shipped else None,
    }  # fmt: skip


_FULL: dict[str, Any] = {
    "schema": 1, "name": "digits", "target": {"name": "host", "description": "this machine"},
    "task": {"name": "classification", "metric": "accuracy", "higher_is_better": True},
    "verdict": {
        "shipped": "int8", "sentence": "int8 is 2.0 times faster.", "reasons": ["in budget"], "met_budget": True,
        "exit_code": 0,
    },
    "budget": {"max_accuracy_drop": 0.01},
    "stages": [
        {"stage": "train", "title": "8 epochs", "reused": False, "wall_s": 41.2,
         "metrics": {"accuracy": 0.98, "parameters": 272_474}},
        {"stage": "prune", "title": "half", "reused": True, "wall_s": 0.0,
         "metrics": {"macs": 20_100_000}, "detail": {"ratio": 0.5}},
    ],
    "candidates": [_candidate("fp32", 0.4), _candidate("int8", 0.2, shipped=True)],
    "dropped": [{"name": "fp16", "what": "could not be built", "why": "no such kernel", "fix": "take another engine"}],
    "timeline": {"candidate": "int8", "every": 3, "processes": [
        {"block": 0, "ms": [0.2, 0.21, 9.0], "temp_c": 50.0, "throttled": False},
        {"block": 1, "ms": [0.2, 0.22, 0.2], "temp_c": 61.5, "throttled": True},
    ]},
    "not_included": ["reading and writing"],
    "curves": {"train": [
        {"epoch": 1, "loss": 2.0, "accuracy": 0.5, "lr": 0.1}, {"epoch": 2, "loss": 1.0, "accuracy": 0.9, "lr": 0.1},
    ]},
    "widths": [{"group": "stage1.conv1", "before": 32, "after": 17}],
    "inspect": {"nodes": {"Conv": {"int8": 19}, "Softmax": {"fp32": 1}}, "notes": ["fused"]},
    "layers_of": "int8",
    "layers": [{"name": "stage1.conv1", "node": "conv1_output", "kind": "Conv", "precision": "int8", "snr_db": 31.4,
                "shape": [1, 16, 8, 8], "weight_snr_db": 44.0, "alone_db": 39.0, "macs": 9_216}],
    "times": {"candidate": "int8", "device": "local", "wall_us": 201.5, "outside_us": 20.1, "attained_pct": 61.0,
              "iterations": 200, "rows": [
        {"module": "stage1.conv1", "node": "conv1_output", "op": "QLinearConv", "precision": "int8",
         "shape": [1, 16, 8, 8], "snr_db": 31.4, "us": 171.4, "share_ratio": 0.945, "bound": "compute",
         "attained_pct": 63.0},
        {"module": "", "node": "softmax", "op": "Softmax", "precision": "fp32", "shape": [1, 10], "us": 10.0,
         "share_ratio": 0.055, "bound": "overhead", "attained_pct": 20.0},
    ]},
    "calibration": [
        {"tensor": "relu_1", "module": "stage1.conv1", "low": 0.0, "high": 3.5, "method": "entropy", "seen_low": 0.0,
         "seen_high": 4.25, "outside_ratio": 0.0002, "snr_db": 33.1,
         "histogram": {"low": 0.0, "high": 4.25, "counts": [900, 40, 3, 0, 1]}},
        {"tensor": "image", "low": -1.0, "high": 1.0, "method": "entropy"},
    ],
    "conditions": {"cpu": "a CPU", "threads": 1, "virtualised": True},
    "warnings": [{"code": "W-VIRTUAL", "text": "a virtual machine", "evidence": "steal 2 %", "fix": "use the device"}],
    "reproduce": ["edgepress run recipe.toml"], "versions": {"numpy": "2.0"},
    "validation": {"split": "validation", "samples": 360}, "test": {"split": "test", "samples": 360},
}  # fmt: skip


@pytest.fixture
def full_run() -> dict[str, Any]:
    return copy.deepcopy(_FULL)


def _engine(latency_ms: float) -> dict[str, Any]:
    measured = {"value": latency_ms, "ci95": [latency_ms * 0.97, latency_ms * 1.03], "k": 7}
    size = {"median_bytes": 30_000_000, "max_bytes": 33_000_000}
    return {
        "latency_ms": measured, "load_ms": measured, "first_ms": measured, "outputs_ok": True, "scenario": None,
        "memory": {"run_peak": size, "load_peak": size, "steady_uss": size},
        "throughput": {"ips": 1000 / latency_ms, "ci95": None, "wall_s": 2.0, "inferences": 99},
        "tail_ms": {
            "p90": {"value": latency_ms * 1.2, "upper99": latency_ms * 1.3, "n": 700, "reason": None, "show": "bound",
                    "process_range": [latency_ms, latency_ms * 1.2]},
            "p99": {"value": None, "upper99": None, "n": 300, "reason": "need 662, have 300", "show": None,
                    "process_range": [latency_ms, latency_ms]},
        },
    }  # fmt: skip


_CAMPAIGN: dict[str, Any] = {
    "schema_version": 1,
    "campaign": {"utc_start": "2026-01-01T00:00:00+00:00", "wall_s": 31.2, "budget_s": 60.0, "blocks": 7, "seed": 0,
                 "mode": "default", "stop": "interval", "quiet_at_start": True},
    "device": {"id": "pi4", "transport": "ssh", "cpu_model": "Cortex-A72", "arch": "aarch64", "usable_cores": 4,
               "freq_khz": {"min": 600_000, "max": 1_800_000, "cur": None}, "virtualised": False, "emulated": False},
    "engines": {name: {"options": {"threads": 1}, "bytes": size} for name, size in (("fp32", 9_000), ("int8", 3_000))},
    "scenario": {"kind": "latency", "batch": 1, "affinity": "default"},
    "runs": [
        {"engine": name, "block": block, "median_ns": ns, "telemetry": {"temp_c": {"start": 40, "max": 45.0}}}
        for name, ns in (("fp32", 2_200_000), ("A/A", 2_200_000), ("int8", 1_000_000)) for block in range(7)
    ],
    "results": {"fp32": _engine(2.2), "int8": _engine(1.0)},
    "comparison": [
        {"a": "int8", "b": "fp32", "metric": "latency_ms", "ratio": 1 / 2.2, "ci95": [1 / 2.6, 1 / 1.9], "delta": 0.01,
         "verdict": "faster", "blocks": 7, "blocks_needed": None, "p_holm": 0.001, "reason": None},
        {"a": "int8", "b": "fp32", "metric": "run_peak_bytes", "ratio": 0.5, "ci95": [0.4, 0.6], "delta": 0.01,
         "verdict": "lower", "blocks": 7, "blocks_needed": None, "p_holm": 0.001, "reason": None},
    ],
    "noise": {"known": True, "floor_pct": 0.8, "aa_ratio_ci": [0.992, 1.008], "aa": None},
    "quality": {"grade": "B", "reasons": ["W-X: x"], "half_width_ratio": 0.03, "engines": {
        "fp32": {"grade": "A", "reasons": []}, "int8": {"grade": "B", "reasons": ["W-X: x"]}}},
    "warnings": [{"code": "W-X", "severity": "warning", "engine": "int8", "text": "it is x", "evidence": "x = 3",
                  "fix": "stop x"}],
    "reproduce": "edgepress measure a b --device pi4",
}  # fmt: skip


@pytest.fixture
def campaign() -> dict[str, Any]:
    """A campaign on a registered device in which int8 wins."""
    return copy.deepcopy(_CAMPAIGN)


@pytest.fixture
def bare_run() -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "net",
        "target": {"name": "host"},
        "task": {"name": "classification", "metric": "accuracy"},
        "verdict": {"shipped": None, "sentence": "Nothing meets the budget.", "met_budget": False, "exit_code": 7},
    }
