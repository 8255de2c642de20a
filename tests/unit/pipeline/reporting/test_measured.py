"""What a campaign adds to the report."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.measured import campaign_conditions, counted, measured_part, not_included, tail_note, timeline


def _raw(name: str = "int8", samples: int = 100, blocks: int = 3) -> list[dict[str, Any]]:
    return [
        {"engine": name, "block": block, "inner_loops": 2, "raw_ns": [2_000_000 + i for i in range(samples)]}
        for block in range(blocks)
    ]


def test_figures_of_a_candidate(campaign: dict[str, Any]) -> None:
    """Every number comes from the campaign; the device's accuracy stands beside the host's."""
    campaign["accuracy_on_device"] = {"int8": {"value": 0.97, "device": "pi4"}}
    part = measured_part("int8", campaign, _raw(), "fp32")
    assert part["latency_ms"] == {"value": 1.0, "ci95": [0.97, 1.03], "k": 7}
    assert (part["p90_note"], part["p99_ms"], part["p99_note"]) == (
        "n = 700, at most 1.30 ms",
        None,
        "need 662, have 300",
    )
    assert (part["quality"], part["accuracy_device"], part["throughput_ips"]) == ("B", 0.97, 1000.0)
    assert part["block_medians_ms"] == [1.0] * 7
    assert part["vs_reference"]["ratio"] == 2.2


def test_repeated_and_unfinished_blocks_do_not_count(campaign: dict[str, Any]) -> None:
    """Neither what the sentinel discarded nor what came after the last complete block."""
    campaign["runs"].append({"engine": "int8", "block": 7, "median_ns": 9})
    campaign["runs"].append({"engine": "int8", "block": 0, "median_ns": 9, "discarded": "sentinel"})
    assert {run["median_ns"] for run in counted(campaign, "int8")} == {1_000_000}


def test_inner_loops_are_divided_out(campaign: dict[str, Any]) -> None:
    """A sample of two calls shows the time of one."""
    part = measured_part("int8", campaign, _raw(), "fp32")
    assert part["quantiles_ms"][0] == 1.0
    assert max(part["quantiles_ms"]) < 1.001
    found = timeline("int8", campaign, _raw())
    assert found is not None
    assert found["processes"][0]["ms"][0] == 1.0
    assert found["processes"][0]["temp_c"] == 45.0


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(1, 4000), blocks=st.integers(1, 7))
def test_a_timeline_is_thin_and_says_by_how_much(samples: int, blocks: int) -> None:
    """A page stays small however long a campaign was, and no process vanishes."""
    runs = [{"engine": "int8", "block": block, "median_ns": 1} for block in range(blocks)]
    found = timeline("int8", {"runs": runs, "campaign": {"blocks": blocks}}, _raw(samples=samples, blocks=blocks))
    assert found is not None
    assert len(found["processes"]) == blocks
    shown = sum(len(process["ms"]) for process in found["processes"])
    assert blocks <= shown <= 1500 + blocks
    assert (shown - blocks) * found["every"] <= samples * blocks


def test_without_samples_there_is_no_timeline(campaign: dict[str, Any]) -> None:
    """An engine that the side file does not hold is not drawn."""
    assert timeline("int8", campaign, _raw("fp32")) is None
    assert measured_part("int8", campaign, [], "fp32")["quantiles_ms"] == []


def test_conditions_leave_out_what_is_not_known(campaign: dict[str, Any]) -> None:
    """Absent is absent; false is told."""
    told = campaign_conditions(campaign)
    assert told["clocks"] == "min 600 MHz, max 1800 MHz"
    assert told["virtual machine"] is False
    assert {"frequency governor", "power mode", "turbo"}.isdisjoint(told)
    assert told["noise"] == "A/A noise \u00b10.8 %"


def test_emulation_is_named_as_no_speed(campaign: dict[str, Any]) -> None:
    """The list of what the numbers are not comes from the conditions."""
    assert not any("emulated" in line for line in not_included(campaign))
    campaign["device"]["emulated"] = True
    assert any("emulated" in line for line in not_included(campaign))


def test_a_missing_percentile_has_no_note() -> None:
    """Nothing is made up."""
    assert tail_note(None) == ""
