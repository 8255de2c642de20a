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
        "p90_ms": latency_ms * 1.1, "p99_ms": None, "load_ms": 14.2, "first_ms": 1.5, "peak_memory_bytes": 61_400_000,
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
    "curves": {"train": [
        {"epoch": 1, "loss": 2.0, "accuracy": 0.5, "lr": 0.1}, {"epoch": 2, "loss": 1.0, "accuracy": 0.9, "lr": 0.1},
    ]},
    "widths": [{"group": "stage1.conv1", "before": 32, "after": 17}],
    "inspect": {"nodes": {"Conv": {"int8": 19}, "Softmax": {"fp32": 1}}, "notes": ["fused"]},
    "layers": [{"name": "conv1_output", "kind": "Conv", "precision": "int8", "snr_db": 31.4}],
    "calibration": [{"tensor": "relu_1", "low": 0.0, "high": 3.5, "method": "entropy"}],
    "conditions": {"cpu": "a CPU", "threads": 1, "virtualised": True},
    "warnings": [{"code": "W-VIRTUAL", "text": "a virtual machine", "evidence": "steal 2 %", "fix": "use the device"}],
    "reproduce": ["edgepress run recipe.toml"], "versions": {"numpy": "2.0"},
    "validation": {"split": "validation", "samples": 360}, "test": {"split": "test", "samples": 360},
}  # fmt: skip


@pytest.fixture
def full_run() -> dict[str, Any]:
    return copy.deepcopy(_FULL)


@pytest.fixture
def bare_run() -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "net",
        "target": {"name": "host"},
        "task": {"name": "classification", "metric": "accuracy"},
        "verdict": {"shipped": None, "sentence": "Nothing meets the budget.", "met_budget": False, "exit_code": 7},
    }
