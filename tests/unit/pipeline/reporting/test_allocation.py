"""Predicted beside measured milliseconds reach run.json, the page and the terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from pipeline.reporting.compose import _allocation
from pipeline.reporting.render import render_report
from pipeline.reporting.schema import run_report
from pipeline.reporting.summary import terminal_summary
from pipeline.reporting.text import milliseconds

ROUND = {"target_ms": 0.5, "predicted_ms": 0.49, "measured_ms": 0.512, "dense_ms": 1.0, "importance_ratio": 0.83}
RESULTS = {
    "latency_table": {"nets": 12, "unseen_error_mean_ratio": 0.018},
    "allocate": {
        "precision": "int8", "device": "local", "why_off": "",
        "rounds": [{**ROUND, "measured_ms": 0.61, "widths": {"conv1": 8}}, {**ROUND, "widths": {"conv1": 8}}],
    },
}  # fmt: skip


def test_rounds_are_told(full_run: dict[str, Any]) -> None:
    """Promise: what was asked for, foretold and measured stands in the page's table and in a line of the terminal."""
    allocation = _allocation(RESULTS)
    run = {**full_run, "allocation": allocation}
    report = run_report(run)
    assert report.allocation is not None
    assert [item.measured_ms for item in report.allocation.rounds] == [0.61, 0.512]
    page = render_report(run)
    for told in ("0.500 ms", "0.490 ms", "0.512 ms", "0.610 ms", "83 %", "1.8 % off"):
        assert told in page
    stream = io.StringIO()
    Console(file=stream, width=160).print(terminal_summary(run))
    line = f"pruned for 0.500 ms: predicted 0.490 ms, measured 0.512 ms (int8, dense {milliseconds(1.0)}), 83% of the"
    assert line in stream.getvalue()


def test_without_a_latency_there_is_none(full_run: dict[str, Any]) -> None:
    """Promise: a run that asked for no latency tells of none."""
    assert _allocation({"prune": {}}) is None
    assert "Widths for a latency" not in render_report(full_run)
