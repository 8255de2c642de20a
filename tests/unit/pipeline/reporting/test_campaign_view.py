"""A campaign on the terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pipeline.reporting.campaign import campaign_view, engine_rows


def _shown(campaign: dict[str, Any], width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(campaign_view(campaign))
    return stream.getvalue()


def test_everything_a_reader_asks_for_is_there(campaign: dict[str, Any]) -> None:
    """Device, figures with intervals, the reason for a missing p99, verdict, warning with its fix, the command."""
    campaign["accuracy_on_device"] = {"int8": {"value": 0.98, "metric": "accuracy", "samples": 400, "device": "pi4"}}
    said = " ".join(_shown(campaign).split())
    for expected in (
        "pi4 (Cortex-A72), 1 thread", "7 blocks in 31.2 s of 60 s", "1.00 ms [0.97, 1.03]", "n = 700, at most 1.30 ms",
        "need 662, have 300", "98.0 % [96.1, 99.0]", "33.0 MB", "int8 is 2.2", "W-X it is x (int8: x = 3). Fix: stop x",
        "Again: edgepress measure a b --device pi4",
    ):  # fmt: skip
        assert expected in said, expected


def test_processes_that_differ_show_their_range_only(campaign: dict[str, Any]) -> None:
    """A pooled percentile is not printed where it does not hold for every process."""
    campaign["results"]["fp32"]["tail_ms"]["p90"].update(show="range", process_range=[2.1, 3.9])
    cell = dict(engine_rows(campaign))["p90"][0]
    assert cell == "by process 2.10 to 3.90 ms\nn = 700"


def test_rows_that_nobody_filled_are_left_out(campaign: dict[str, Any]) -> None:
    """No column of dashes; cold and paced have no throughput."""
    for result in campaign["results"].values():
        result["throughput"] = None
    labels = [label for label, _ in engine_rows(campaign)]
    assert {"throughput", "energy, net", "accuracy"}.isdisjoint(labels)
    assert {"latency [95 % CI]", "p99", "quality"} <= set(labels)


def test_a_scenario_adds_its_own_rows(campaign: dict[str, Any]) -> None:
    """Late inferences, first and last minute, the state of the page cache."""
    campaign["results"]["fp32"]["scenario"] = {"kind": "sustained", "first_minute_ms": 2.0, "throttled_after_s": 312.0}
    rows = dict(engine_rows(campaign))
    assert rows["first minute"][0] == "2.00 ms"
    assert rows["throttled after"][0] == "5 min 12 s"


def test_a_short_run_has_no_minutes(campaign: dict[str, Any]) -> None:
    """Of a run below two minutes the halves are compared, and are called so."""
    campaign["scenario"] = {**campaign["scenario"], "kind": "sustained", "duration_s": 20.0}
    campaign["results"]["fp32"]["scenario"] = {"kind": "sustained", "first_minute_ms": 2.0, "last_over_first": 1.1}
    rows = dict(engine_rows(campaign))
    assert rows["first half"][0] == "2.00 ms"
    assert not any("minute" in label for label in rows)


@pytest.mark.parametrize(
    ("scenario", "label"),
    [
        ({"kind": "latency"}, "latency"),
        ({"kind": "cold"}, "load and first inference"),
        ({"kind": "paced"}, "latency since due"),
        ({"kind": "throughput", "batch": 4}, "latency of a batch of 4"),
    ],
)
def test_the_headline_says_what_it_is(campaign: dict[str, Any], scenario: dict[str, Any], label: str) -> None:
    """A batch, a cold start and a frame that waited are not called the latency of an inference."""
    campaign["scenario"] = {**campaign["scenario"], **scenario}
    assert engine_rows(campaign)[0][0] == f"{label} [95 % CI]"


def test_throughput_has_its_interval(campaign: dict[str, Any]) -> None:
    """Inferences a second in the digits that their interval supports."""
    campaign["results"]["fp32"]["throughput"] = {"ips": 779.4, "ci95": [610.2, 948.1]}
    assert dict(engine_rows(campaign))["throughput"][0] == "780/s [610, 950]"


def test_a_grade_says_why(campaign: dict[str, Any]) -> None:
    """What no warning tells, such as an interval that is too wide, stands below the table."""
    campaign["quality"]["engines"]["fp32"] = {"grade": "C", "reasons": ["W-X: x", "the interval is +-34 %"]}
    assert "fp32, quality C: the interval is +-34 %." in " ".join(_shown(campaign).split())


def test_the_share_of_the_attainable_speed_names_what_binds(campaign: dict[str, Any]) -> None:
    """More than all of it is shown as it is: then the model of the machine is wrong."""
    shares = {"compute": 0.2, "memory": 0.7, "overhead": 0.1}
    campaign["results"]["int8"]["roofline"] = {"pct": 106.2, "bound_by": shares}
    assert dict(engine_rows(campaign))["of attainable"] == ["\N{EN DASH}", "106 % (memory-bound)"]
    campaign["results"]["int8"]["roofline"]["quality"] = "noisy"
    assert dict(engine_rows(campaign))["of attainable"][1] == "106 % (memory-bound, peaks uncertain)"


def test_modelled_energy_is_never_joules(campaign: dict[str, Any]) -> None:
    """Grade E prints that there is no sensor; a sensor prints its grade."""
    spread = {"median": 1.234, "min": 1.0, "max": 2.0}
    campaign["results"]["fp32"]["energy"] = {"grade": "E", "sensor": None, "reason": "none"}
    campaign["results"]["int8"]["energy"] = {"grade": "B", "net_mj": spread}
    assert dict(engine_rows(campaign))["energy, net"] == ["no energy sensor", "1.23 mJ (grade B)"]


def test_the_gravest_warning_comes_first(campaign: dict[str, Any]) -> None:
    """What voids a measurement is not hidden under notes."""
    void = {"code": "W-OUTPUT", "severity": "void", "engine": "int8", "text": "wrong", "evidence": "1 of 7", "fix": ""}
    campaign["warnings"].append(void)
    said = _shown(campaign)
    assert said.index("W-OUTPUT") < said.index("W-X")


def test_names_cannot_drive_the_terminal(campaign: dict[str, Any]) -> None:
    """Names come from bundles and devices: control characters and markup are shown as text."""
    campaign["device"]["id"] = "pi\x1b[2J"
    campaign["warnings"][0]["text"] = "[red]x[/red]"
    said = _shown(campaign)
    assert "\x1b" not in said
    assert "[red]x[/red]" in said
