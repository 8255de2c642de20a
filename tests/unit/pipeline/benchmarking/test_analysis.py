"""From rows to results, comparisons and grades: what is claimed, what is withheld, and what stays side by side."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarking.analysis import CampaignFacts, analyse, find_comparison, precise_enough
from targets.errors import InputError

Rows = list[dict[str, Any]]
ENGINE = {"options": {"threads": 1, "providers": ["CPUExecutionProvider"]}, "subnormal_weights": 0}
FACTS = {"cores": 2, "virtualised": False, "psi_cpu_some_avg10": 0.0}
FACTORS = (1.0, 1.002, 0.998, 1.001, 0.999, 1.0015, 0.9985)


def _row(block: int, median_ns: int, n: int = 200, **changes: object) -> dict[str, Any]:
    row = {
        "block": block, "order": 0, "scenario": "latency", "scenario_result": None, "n": n, "inner_loops": 1,
        "of_batches": False, "median_ns": median_ns, "p90_ns": median_ns, "p95_ns": median_ns, "p99_ns": median_ns,
        "min_ns": median_ns, "max_ns": median_ns, "mean_ns": median_ns, "mad_ns": median_ns // 100,
        "iqr_ns": median_ns // 50, "rho1": 0.0, "outliers": {"mild": 2, "severe": 1}, "loop_wall_ns": n * median_ns,
        "cpu_ns": n * median_ns, "samples_sum_ns": n * median_ns, "overhead_ns": 100, "invol_ctx": 0, "psi_after": 0.0,
        "load_ns": 5 * median_ns, "first_ns": 2 * median_ns, "n_distinct": 20, "outputs_ok": True,
        "outputs_sha256": "a", "raw": [median_ns] * n, "class": "flat", "segments": [], "steady_from": 0,
        "mem": {"base_rss": 10, "load_peak": 300, "run_peak": 200, "steady_pss": 100, "steady_uss": None},
    }  # fmt: skip
    return {**row, **changes}


def _rows(median_ns: int, blocks: int = 7, **changes: object) -> Rows:
    return [_row(i, round(median_ns * FACTORS[i % 7]), **changes) for i in range(blocks)]


def _campaign(**changes: object) -> CampaignFacts:
    facts: dict[str, Any] = {
        "mode": "default", "quiet": True, "noise_ratio": 0.0, "noise_known": False, "sentinel_reference": None,
        "scenario_kind": "latency", "resumed_blocks": 0, "stop": "interval", "target_half_width": 0.01,
        "min_blocks": 3, "verdicts": True, "aa": None,
    }  # fmt: skip
    return CampaignFacts(**{**facts, **changes})


def _analyse(runs: dict[str, Rows], facts: dict[str, Any] | None = None, **campaign: object) -> dict[str, Any]:
    found = analyse(
        runs, dict.fromkeys(runs, ENGINE), FACTS if facts is None else facts, campaign=_campaign(**campaign)
    )
    json.dumps(found, allow_nan=False)
    return found


def test_a_clean_campaign_gets_a_verdict_and_grade_a() -> None:
    """Two steady engines: grade A for both, the ratio with its interval, and the mirror image of it."""
    found = _analyse({"fp32": _rows(2_000_000), "int8": _rows(1_000_000)})
    assert found["quality"]["grade"] == "A"
    assert found["quality"]["reasons"] == []
    assert found["warnings"] == []
    assert found["results"]["int8"]["latency_ms"]["value"] == pytest.approx(1.0, rel=1e-3)
    assert found["results"]["int8"]["quality"]["grade"] == "A"
    item = find_comparison(found, "int8", "fp32")
    assert (item["verdict"], item["reason"], item["blocks"]) == ("faster", None, 7)
    assert item["ratio"] == pytest.approx(0.5, rel=1e-4)
    back = find_comparison(found, "fp32", "int8")
    assert (back["verdict"], back["ratio"]) == ("slower", pytest.approx(2.0, rel=1e-4))
    assert back["ci95"] == pytest.approx([1 / end for end in reversed(item["ci95"])])


def test_tail_and_memory_are_compared_too() -> None:
    """p90 and p99 where both are licensed, and peak memory, each with its own metric and words."""
    fat = [{**row, "mem": {**row["mem"], "run_peak": 400}} for row in _rows(1_000_000)]
    found = _analyse({"fp32": _rows(2_000_000), "int8": fat})
    assert [item["metric"] for item in found["comparison"]] == ["latency_ms", "p90_ms", "p99_ms", "run_peak_bytes"]
    assert find_comparison(found, "int8", "fp32", "p99_ms")["verdict"] == "faster"
    memory = find_comparison(found, "int8", "fp32", "run_peak_bytes")
    assert (memory["verdict"], memory["ratio"]) == ("higher", pytest.approx(2.0))
    assert find_comparison(found, "fp32", "int8", "run_peak_bytes")["verdict"] == "lower"
    few = _analyse({"fp32": _rows(2_000_000, n=90), "int8": _rows(1_000_000, n=90)})
    assert [item["metric"] for item in few["comparison"]] == ["latency_ms", "p90_ms", "run_peak_bytes"]
    with pytest.raises(InputError, match="by p99_ms"):
        find_comparison(few, "int8", "fp32", "p99_ms")


def test_holm_counts_each_metric_by_itself() -> None:
    """Three engines are three comparisons of each metric: p is corrected within the metric, not over all of them."""
    rng = np.random.default_rng(3)
    runs = {name: [_row(i, int(1e6 * x)) for i, x in enumerate(np.exp(rng.normal(0, 0.01, 7)))] for name in "abc"}
    found = _analyse(runs)["comparison"]
    latency = [item["p_holm"] for item in found if item["metric"] == "latency_ms"]
    assert len(latency) == 3
    alone = _analyse({name: runs[name] for name in "ab"})["comparison"][0]["p_holm"]
    assert min(latency) <= min(1.0, 3 * alone) + 1e-12
    same = [item["p_holm"] for item in found if item["metric"] == "p90_ms"]
    assert same == pytest.approx(latency)


def test_noise_that_was_measured_widens_delta() -> None:
    """The noise floor is that of A/A where known; else 1 % is assumed and reported as not known."""
    runs = {"fp32": _rows(1_000_000), "int8": _rows(970_000)}
    assert find_comparison(_analyse(runs), "int8", "fp32")["verdict"] == "faster"
    aa = {"ratio": 1.01, "ci95": [0.97, 1.05], "blocks": 7}
    found = _analyse(runs, noise_ratio=0.05, noise_known=True, aa=aa)
    assert find_comparison(found, "int8", "fp32")["verdict"] == "same"
    assert found["noise"]["floor_pct"] == pytest.approx(5.0)
    assert found["noise"]["aa_ratio_ci"] == [0.97, 1.05]
    assert _analyse(runs, noise_ratio=0.05)["noise"] == {
        "known": False,
        "floor_pct": None,
        "aa_ratio_ci": None,
        "aa": None,
    }


@pytest.mark.parametrize(
    ("campaign", "blocks", "facts", "reason"),
    [
        ({"mode": "quick", "verdicts": False}, 3, {}, "screening only"),
        ({}, 2, {}, "below 3 blocks"),
        ({"stop": "lost"}, 7, {}, "lost"),
        ({}, 7, {"emulated": True}, "W-QEMU"),
    ],
)
def test_a_verdict_is_withheld_with_a_reason(
    campaign: dict[str, Any], blocks: int, facts: dict[str, Any], reason: str
) -> None:
    """Quick mode, too few blocks, a lost or emulated device: there is a ratio, no verdict, and a reason."""
    runs = {"fp32": _rows(2_000_000, blocks), "int8": _rows(1_000_000, blocks)}
    found = _analyse(runs, {**FACTS, **facts}, **campaign)
    item = find_comparison(found, "int8", "fp32")
    assert item["verdict"] == "not shown"
    assert reason in item["reason"]
    assert item["ratio"] == pytest.approx(0.5, rel=1e-3)
    assert found["quality"]["grade"] == ("F" if {"stop", "emulated"} & {*campaign, *facts} else "B")
    assert item["blocks_needed"] in ({None} if blocks > 2 else {3})


@pytest.mark.parametrize(("spread", "grade"), [(0.002, "A"), (0.015, "B"), (0.05, "C"), (0.3, "C")])
def test_the_grade_follows_the_interval(spread: float, grade: str) -> None:
    """Half-widths of up to 1 % are A, up to 3 % B, more C; and the reason names the goal that was missed."""
    rows = [_row(i, int(1e6 * (1 + spread * (i % 3 - 1)))) for i in range(7)]
    found = _analyse({"fp32": rows})["quality"]
    assert found["grade"] == grade
    assert (found["reasons"] == []) == (grade == "A")
    assert any("too wide" in reason for reason in found["reasons"]) == (spread > 0.1)


def test_conditions_lower_the_grade() -> None:
    """A virtual CPU, a busy start or any warning keeps a narrow interval from grade A."""
    runs = {"fp32": _rows(1_000_000)}
    assert _analyse(runs, {**FACTS, "virtualised": True})["quality"]["grade"] == "B"
    assert _analyse(runs, quiet=False)["quality"]["grade"] == "B"
    assert _analyse({"fp32": _rows(1_000_000, psi_after=30.0)})["quality"]["grade"] == "B"


def test_wrong_outputs_void_only_their_engine() -> None:
    """The engine with wrong outputs has grade F and no comparison; the others keep theirs; the whole is F."""
    wrong = _rows(1_000_000)
    wrong[3] = {**wrong[3], "outputs_ok": False}
    found = _analyse({"fp32": _rows(2_000_000), "int8": wrong, "small": _rows(1_500_000)})
    grades = {name: item["grade"] for name, item in found["quality"]["engines"].items()}
    assert grades == {"fp32": "A", "int8": "F", "small": "A"}
    assert found["quality"]["grade"] == "F"
    assert found["results"]["int8"]["outputs_ok"] is False
    assert find_comparison(found, "small", "fp32")["verdict"] == "faster"
    with pytest.raises(InputError, match="not compared"):
        find_comparison(found, "int8", "fp32")


def test_outputs_that_change_between_processes_are_wrong() -> None:
    """Outputs of as many samples must hash the same in every process."""
    rows = _rows(1_000_000)
    rows[2] = {**rows[2], "outputs_sha256": "b"}
    assert _analyse({"fp32": rows})["results"]["fp32"]["outputs_ok"] is False
    rows[2]["n"] = 5  # fewer inferences covered fewer samples: another hash is no fault
    rows[2]["raw"] = rows[2]["raw"][:5]
    assert _analyse({"fp32": rows})["results"]["fp32"]["outputs_ok"] is True


@pytest.mark.parametrize(("n", "licensed"), [(661, False), (662, True)])
def test_p99_has_its_licence_from_662_inferences(n: int, licensed: bool) -> None:  # noqa: FBT001 - a parameter
    """One inference below the minimum p99 is null with the reason, and W-P99 says so; at the minimum it is there."""
    rows = [_row(0, 1_000_000, n=300), _row(1, 1_000_000, n=n - 300)]
    found = _analyse({"fp32": rows})
    tail = found["results"]["fp32"]["tail_ms"]["p99"]
    assert (tail["value"] is not None) == licensed
    assert tail["reason"] == (None if licensed else "need 662, have 661")
    assert ("W-P99" in {item["code"] for item in found["warnings"]}) != licensed
    assert tail["show"] == ("bound" if licensed else None)
    assert tail["process_range"] == [1.0, 1.0]


def test_where_processes_differ_only_the_range_is_shown() -> None:
    """A process whose p90 lies beyond the pooled bound shows that the bound does not hold for all of them."""
    rows = _rows(1_000_000)
    rows[4] = {**rows[4], "p90_ns": 3_000_000}
    tail = _analyse({"fp32": rows})["results"]["fp32"]["tail_ms"]["p90"]
    assert tail["show"] == "range"
    assert tail["process_range"][1] == pytest.approx(3.0)


def test_what_came_before_it_settled_is_no_tail() -> None:
    """Percentiles are those of the steady part; the median and the outliers are of everything."""
    slow_start = [9_000_000] * 50 + [1_000_000] * 150
    rows = _rows(1_000_000, raw=slow_start, steady_from=50, **{"class": "warmup"})
    found = _analyse({"fp32": rows})["results"]["fp32"]
    assert found["tail_ms"]["p99"]["value"] == pytest.approx(1.0)
    assert found["tail_ms"]["p99"]["n"] == 7 * 150
    assert found["outliers"] == {"mild": 14, "severe": 7}
    assert found["steadiness"] == {"warmup": 7}


def test_wall_cpu_and_samples_stand_side_by_side() -> None:
    """A stall between samples shows in the loop's wall time only: all three times are kept, mean beside median."""
    rows = _rows(1_000_000, blocks=4, loop_wall_ns=300_000_000, cpu_ns=50_000_000, samples_sum_ns=220_000_000)
    found = _analyse({"fp32": rows})["results"]["fp32"]
    assert found["times_s"] == pytest.approx({"loop_wall": 1.2, "samples_sum": 0.88, "cpu": 0.2})
    assert found["mean_ms"] == pytest.approx(1.1)
    assert found["mean_over_median"] == pytest.approx(1.1, rel=0.01)
    assert found["throughput"]["ips"] == pytest.approx(4 * 200 / 1.2)


def test_load_first_and_steady_are_three_numbers() -> None:
    """Load and first inference have their own intervals and do not touch the latency."""
    found = _analyse({"fp32": _rows(1_000_000)})["results"]["fp32"]
    values = [found[key]["value"] for key in ("load_ms", "first_ms", "latency_ms")]
    assert values == pytest.approx([5.0, 2.0, 1.0], rel=1e-3)
    assert all(found[key]["ci95"] for key in ("load_ms", "first_ms", "latency_ms"))
    assert found["memory"]["run_peak"] == {"median_bytes": 200, "max_bytes": 200}
    assert found["memory"]["steady_uss"] is None


def test_throughput_is_inferences_by_wall_time() -> None:
    """N / T, never 1 / median: bimodal requests of 1 and 9 ms give 200 a second although the median says 1000."""
    result = {"batch": 1, "concurrency": 1, "inferences": 200, "wall_ns": 1_000_000_000, "ips": 200.0}
    rows = _rows(1_000_000, scenario="throughput", scenario_result=result)
    twice = [{**row, "scenario_result": {**result, "wall_ns": 500_000_000}} for row in rows]
    found = _analyse({"slow": rows, "fast": twice}, scenario_kind="throughput")
    assert found["results"]["slow"]["throughput"]["ips"] == pytest.approx(200)
    assert found["results"]["slow"]["scenario"] == {"kind": "throughput", "batch": 1, "concurrency": 1}
    assert find_comparison(found, "fast", "slow", "ms_per_inference")["verdict"] == "faster"
    assert find_comparison(found, "fast", "slow")["verdict"] == "same"


def test_paced_counts_late_frames_and_has_no_throughput() -> None:
    """The pace is the schedule's, not the engine's; how many frames were late is counted over all processes."""
    result = {"period_ns": 33_000_000, "late_n": 10, "latency_from_schedule": True}
    found = _analyse({"a": _rows(1_000_000, scenario="paced", scenario_result=result)}, scenario_kind="paced")
    assert found["results"]["a"]["throughput"] is None
    assert found["results"]["a"]["scenario"]["late_n"] == 70
    assert found["results"]["a"]["scenario"]["late_ratio"] == pytest.approx(0.05)


def test_sustained_sets_the_first_minute_against_the_last() -> None:
    """One run: first minute, last minute, their ratio, and when it was throttled; samples left out still count."""
    result = {
        "first_minute_median_ns": 1_000_000, "last_minute_median_ns": 1_500_000, "throttled_after_s": 130.0,
        "inferences": 400,
    }  # fmt: skip
    row = _row(0, 1_200_000, scenario="sustained", scenario_result=result, raw_stride=2, samples_sum_ns=480_000_000)
    found = _analyse({"a": [row]}, scenario_kind="sustained", min_blocks=1)
    assert found["results"]["a"]["scenario"]["last_over_first"] == pytest.approx(1.5)
    assert found["results"]["a"]["scenario"]["throttled_after_s"] == 130.0
    assert found["results"]["a"]["mean_ms"] == pytest.approx(1.2)
    assert found["results"]["a"]["latency_ms"]["ci95"] is None


def test_cold_is_load_and_first_inference() -> None:
    """A cold start has no loop: its latency is load and first inference, and the page cache is named."""
    rows = []
    for i in range(7):
        row = _row(i, 7_000_000 + 1000 * i, n=1, scenario="cold", scenario_result={"page_cache": "dropped"})
        rows.append({**row, "load_ns": 5_000_000 + 1000 * i, "first_ns": 2_000_000})
    found = _analyse({"a": rows}, scenario_kind="cold")
    result = found["results"]["a"]
    assert result["latency_ms"]["value"] == pytest.approx(7.003, rel=1e-4)
    assert result["scenario"]["page_cache"] == "dropped"
    assert (result["tail_ms"], result["throughput"]) == (None, None)
    assert {item["code"] for item in found["warnings"]} == set()


def test_rows_of_older_programs_are_read() -> None:
    """Rows without the newer keys (class, sentinel, telemetry, scenario, faults, swap) give results all the same."""
    newer = ("class", "segments", "steady_from", "scenario", "scenario_result", "overhead_ns", "psi_after", "invol_ctx")
    rows = [{key: value for key, value in row.items() if key not in newer} for row in _rows(1_000_000)]
    rows = [{**row, "mem": {"run_peak": 5}} for row in rows]
    found = _analyse({"fp32": rows, "int8": rows}, {})
    assert found["results"]["fp32"]["memory"]["run_peak"]["max_bytes"] == 5
    assert find_comparison(found, "int8", "fp32")["verdict"] == "same"


def test_repeated_blocks_do_not_count() -> None:
    """A row that was set aside, because its block was disturbed, changes nothing."""
    rows = _rows(1_000_000)
    with_more = [*rows, _row(0, 90_000_000, discarded="sentinel")]
    assert _analyse({"fp32": with_more}) == _analyse({"fp32": rows})
    with pytest.raises(ValueError, match="at least one row"):
        _analyse({"fp32": [_row(0, 1, discarded="warmup")]})


def test_precise_enough_needs_every_engine() -> None:
    """One engine with a wide interval, or with one block only, keeps the campaign going."""
    narrow = [{**row, "engine": "a"} for row in _rows(1_000_000)]
    wide = [{**_row(i, 1_000_000 * (1 + i % 2)), "engine": "b"} for i in range(7)]
    assert precise_enough(narrow, ["a"], 0.01)
    assert not precise_enough([*narrow, *wide], ["a", "b"], 0.01)
    assert not precise_enough(narrow[:1], ["a"], 0.01)
