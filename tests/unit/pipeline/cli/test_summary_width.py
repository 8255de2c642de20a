"""The table of candidates at every width of a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pipeline.reporting.summary import terminal_summary


@pytest.fixture
def run() -> dict[str, Any]:
    """Three candidates and five warnings of two codes."""
    warning = {"code": "W-NOISY-CPU", "text": "other work ran", "evidence": "x", "fix": "stop it"}
    return {
        "schema": 1, "name": "digits",
        "task": {"name": "classification", "metric": "accuracy"},
        "target": {"name": "host"},
        "verdict": {
            "shipped": "int8", "met_budget": True, "sentence": "int8 ships on host.", "reasons": [], "exit_code": 0,
        },
        "candidates": [
            {
                "name": name, "precision": "fp32", "accuracy": 0.9833, "size_bytes": 1_360_000, "parameters": 339_000,
                "latency_ms": {"value": 0.232, "ci95": [0.225, 0.24], "k": 5}, "peak_memory_bytes": 34_800_000,
                "vs_reference": {"reference": "dense-fp32", "ratio": 2.92, "ci95": [2.82, 3.03], "verdict": "faster"},
                "shipped": name == "int8", "reasons": [],
            }
            for name in ("dense-fp32", "fp32", "int8")
        ],
        "warnings": [warning] * 4 + [{**warning, "code": "W-FEW"}],
    }  # fmt: skip


def shown(run: dict[str, Any], width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(terminal_summary(run))
    return stream.getvalue()


@pytest.mark.parametrize("width", [160, 120, 100, 80, 70, 60, 50, 40])
def test_no_cell_is_cut(width: int, run: dict[str, Any]) -> None:
    """Every name, latency and size is whole, and no line is wider than the terminal."""
    text = shown(run, width)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert max(map(len, text.splitlines())) <= width
    for expected in ("dense-fp32", "fp32", "int8 *", "0.232 ms", "1.36 MB"):
        assert expected in text


def test_wider_terminals_show_more(run: dict[str, Any]) -> None:
    """Speed and accuracy at 80 columns, memory and parameters where there is room."""
    assert "98.3 %" in shown(run, 80)
    assert "[2.82, 3.03]" in shown(run, 80)
    assert "339 k" not in shown(run, 80)
    assert "339 k" in shown(run, 120)


def test_a_warning_is_said_once(run: dict[str, Any]) -> None:
    """One line a code, with how often it came."""
    text = shown(run, 200)
    assert text.count("W-NOISY-CPU") == 1
    assert "other work ran (4 times)\n  Fix: stop it" in text
    assert "W-FEW other work ran\n  Fix" in text
