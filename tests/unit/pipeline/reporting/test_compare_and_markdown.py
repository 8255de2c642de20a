"""Runs side by side, and as Markdown: what differs is told, and foreign names are no markup."""

from __future__ import annotations

import copy
from typing import Any

from pipeline.reporting.compare import compare_runs
from pipeline.reporting.markdown import markdown_comparison, markdown_report
from pipeline.reporting.schema import run_report


def test_two_runs_side_by_side(full_run: dict[str, Any]) -> None:
    """Promise: latency, accuracy and size of what ships, with the change; two campaigns carry no verdict."""
    other = copy.deepcopy(full_run)
    shipped = next(candidate for candidate in other["candidates"] if candidate["shipped"])
    shipped["latency_ms"]["value"] *= 2
    shipped["accuracy"] -= 0.01
    other["target"]["name"] = "pi"
    rows, notes = compare_runs(run_report(full_run), run_report(other))
    changes = {row.label: row.change for row in rows}
    assert changes["latency"] == "+100.0%"
    assert changes["validation accuracy"] == "-1.00 points"
    assert changes["size"] == "+0.0%"
    assert any("two campaigns" in note for note in notes)
    assert any("host and pi" in note for note in notes)


def test_a_run_that_ships_nothing_compares_with_nothing(full_run: dict[str, Any]) -> None:
    """Promise: no figure is made up."""
    other = copy.deepcopy(full_run)
    for candidate in other["candidates"]:
        candidate["shipped"] = False
    rows, notes = compare_runs(run_report(full_run), run_report(other))
    assert [row.label for row in rows] == ["run", "ships"]
    assert "nothing to compare" in notes[0]


def test_markdown_holds_the_tables_and_no_foreign_markup(full_run: dict[str, Any]) -> None:
    """Promise: every candidate and warning is in it; a hostile name is text."""
    hostile = copy.deepcopy(full_run)
    hostile["name"] = "<script>|[x](y)`"
    shown = markdown_report(hostile)
    assert "<script>" not in shown
    assert "\\[x\\](y)\\`" in shown
    lines = shown.splitlines()
    heads = [line for line in lines if line.startswith("| ---")]
    for candidate in full_run["candidates"]:
        assert candidate["name"] in shown
    for head in heads:
        at = lines.index(head)
        assert lines[at - 1].count(" | ") == head.count(" | ")
    assert markdown_report(full_run) == markdown_report(full_run)


def test_markdown_tells_of_channels_layers_and_what_is_missing(full_run: dict[str, Any]) -> None:
    """Promise: widths, timed layers with what bounds them, and what could not be built stand there too."""
    row = {"module": "stem.conv", "node": "c", "op": "Conv", "precision": "int8", "shape": [1, 8], "snr_db": 40.0,
           "us": 12.5, "share_ratio": 0.25, "bound": "compute", "attained_pct": 40.0}  # fmt: skip
    full_run["times"] = {"candidate": "int8", "device": "local", "wall_us": 50.0, "rows": [row]}
    full_run["widths"] = [{"group": "stem", "before": 64, "after": 40}]
    lost = {"name": "openvino-int8", "what": "no engine", "why": "not installed", "fix": "install it"}
    full_run["dropped"] = [lost, {**lost, "name": "halved", "quiet": True}]
    lines = markdown_report(full_run).splitlines()
    assert "| stem | 64 | 40 |" in lines
    assert "| stem.conv | Conv | 1×8 | int8 | 40.0 dB | 12.5 | 25.0 % | compute | 40 % |" in lines  # noqa: RUF001
    assert "- openvino-int8: no engine: not installed. Fix: install it." in lines
    assert not any("halved" in line for line in lines)


def test_a_comparison_as_markdown(full_run: dict[str, Any]) -> None:
    """Promise: a table and its notes."""
    rows, notes = compare_runs(run_report(full_run), run_report(full_run))
    shown = markdown_comparison(rows, notes)
    assert shown.count("\n| ") >= len(rows)
    assert shown.count("\n- ") == len(notes)
