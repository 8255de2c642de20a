"""Each condition that weakens a number has its code, with evidence and a remedy; a clean campaign has none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.benchmarking.conditions import CampaignFacts
from pipeline.benchmarking.warnings import Caution, campaign_warnings

ROOT = Path(__file__).resolve().parents[4]
CODE = re.compile(r"[\"'](W-[A-Z0-9-]+)[\"']")
REFERENCE = {"wall_ns": 100_000_000, "cpu_ns": 100_000_000}
SLOW = {"wall_ns": 130_000_000, "cpu_ns": 125_000_000}
WAITED = {"wall_ns": 130_000_000, "cpu_ns": 101_000_000}
GPU_ENGINE = {"runtime": "onnxruntime", "options": {"threads": 1, "providers": ["CUDAExecutionProvider"]}}


def _row(block: int, **changes: object) -> dict[str, Any]:
    median, n = 1_000_000, 200
    row = {
        "block": block, "scenario": "latency", "n": n, "inner_loops": 1, "of_batches": False, "median_ns": median,
        "iqr_ns": median // 50, "mad_ns": median // 100, "rho1": 0.0, "loop_wall_ns": n * median, "cpu_ns": n * median,
        "samples_sum_ns": n * median, "overhead_ns": 100, "invol_ctx": 0, "steal_ticks": 0, "psi_after": 0.0,
        "swap_bytes": 0, "n_distinct": 20, "outputs_sha256": "a", "outputs_ok": True, "raw": [median] * n,
        "class": "flat", "steady_from": 0, "providers": ["CPUExecutionProvider"], "telemetry": None,
        "load_ns": 1, "first_ns": 1,
    }  # fmt: skip
    return {**row, **changes}


def _warned(
    rows: list[dict[str, Any]] | None = None,
    *,
    facts: dict[str, Any] | None = None,
    engine: dict[str, Any] | None = None,
    **campaign: object,
) -> dict[str, Caution]:
    known: dict[str, Any] = {
        "mode": "default", "quiet": True, "noise_ratio": 0.0, "noise_known": False, "sentinel_reference": REFERENCE,
        "scenario_kind": "latency", "resumed_blocks": 0, "stop": "interval", "target_half_width": 0.01,
        "min_blocks": 3, "verdicts": True, "aa": None,
    }  # fmt: skip
    found = campaign_warnings(
        {"fp32": rows or [_row(i) for i in range(7)]},
        {"fp32": engine or {"options": {"threads": 1, "providers": ["CPUExecutionProvider"]}}},
        {"cores": 2, **(facts or {})},
        CampaignFacts(**{**known, **campaign}),
    )
    for caution in found:
        assert caution.text
        assert caution.evidence
        assert caution.fix
        assert "\n" not in caution.text + caution.evidence + caution.fix
    codes = [caution.code for caution in found]
    assert len(codes) == len(set(codes))
    return dict(zip(codes, found, strict=True))


def _all(**changes: object) -> list[dict[str, Any]]:
    return [_row(i, **changes) for i in range(7)]


def _telemetry(**seen: object) -> list[dict[str, Any]]:
    return _all(telemetry={"throttle": None, "freq_khz": None, **seen})


def test_a_clean_campaign_has_no_warning() -> None:
    """No disturbance, no warning; neither where a device tells nothing of itself."""
    assert _warned() == {}
    assert _warned(facts={"governor": "performance", "no_turbo": True, "charging": False, "emulated": False}) == {}


@pytest.mark.parametrize(
    ("rows", "code", "severity", "evidence"),
    [
        (_all(psi_after=30.0), "W-NOISY-CPU", "warning", "pressure up to 30 %"),
        (_all(invol_ctx=100), "W-NOISY-CPU", "warning", "500 involuntary"),
        (_all(steal_ticks=4), "W-NOISY-CPU", "warning", "10.0 % of the time stolen"),
        (_all(cpu_ns=60_000_000), "W-NOISY-CPU", "warning", "30% of the time on a CPU"),
        (_all(loop_wall_ns=280_000_000, cpu_ns=270_000_000), "W-NOISY-CPU", "warning", "40% of the time between"),
        (_all(iqr_ns=150_000), "W-DISPERSION", "note", "15%"),
        (_all(iqr_ns=400_000), "W-DISPERSION", "warning", "40%"),
        ([_row(i, **{"class": "warmup" if i else "flat"}) for i in range(7)], "W-UNSTEADY", "warning", "6 warmup"),
        ([_row(i, **{"class": "flat" if i else "slowdown"}) for i in range(7)], "W-UNSTEADY", "note", "1 slowdown"),
        (_all(**{"class": "no_steady_state"}), "W-UNSTEADY", "void", "7 no_steady_state"),
        ([*_all(mad_ns=1)[:6], _row(6, mad_ns=1, median_ns=1_010_000)], "W-BETWEEN-PROCESS", "note", "expected 0.0"),
        (_all(rho1=0.9), "W-P99", "note", "need 662"),
        (_all(inner_loops=4, raw=[1_000_000] * 200, median_ns=250_000), "W-TIMER", "note", "4 calls"),
        (_all(overhead_ns=50_000), "W-TIMER", "warning", "a call"),
        (_all(swap_bytes=5_000_000), "W-MEM-SWAP", "warning", "5.0 MB"),
        (_all(outputs_ok=False), "W-OUTPUT", "void", "7 of 7"),
        (_all(n_distinct=3), "W-SAME-INPUT", "note", "3 samples"),
        ([_row(i, n=300, raw=[1_000_000] * 300) for i in range(3)], "W-FEW", "warning", "3 blocks"),
        (_telemetry(throttle={"events": ["core_throttle_count"]}), "W-THROTTLE", "void", "core_throttle_count"),
        (_telemetry(freq_khz={"first": 3_000_000, "median": 2_000_000}), "W-THROTTLE", "void", "67% of its start"),
        (_all(sentinel={"before": REFERENCE, "after": SLOW}), "W-THROTTLE", "void", "1.25 times its CPU time"),
        ([_row(i, sentinel={"after": SLOW if i == 3 else None}) for i in range(7)], "W-THROTTLE", "warning", "block 3"),
        (_all(sentinel={"before": WAITED, "after": None}), "W-NOISY-CPU", "warning", "1.30 times its time"),
    ],
)  # fmt: skip
def test_each_condition_of_the_runs_has_its_warning(
    rows: list[dict[str, Any]], code: str, severity: str, evidence: str
) -> None:
    """One disturbance in the rows brings exactly the warning that names it, with what was seen."""
    found = _warned(rows)
    assert set(found) == {code}
    assert found[code].severity == severity
    assert evidence in found[code].evidence


def test_a_busy_cpu_explains_levels_that_change() -> None:
    """Where others used the CPU, changing levels weaken a latency and do not void it: its interval holds them."""
    found = _warned(_all(**{"class": "no_steady_state"}, invol_ctx=100))
    assert {code: item.severity for code, item in found.items()} == {"W-UNSTEADY": "warning", "W-NOISY-CPU": "warning"}


@pytest.mark.parametrize(
    ("facts", "code", "severity"),
    [
        ({"virtualised": True}, "W-VIRTUAL", "note"),
        ({"wsl": True}, "W-VIRTUAL", "note"),
        ({"emulated": True, "virtualised": True}, "W-QEMU", "void"),
        ({"sys_root": "fake"}, "W-SIMULATED", "warning"),
        ({"governor": "powersave"}, "W-GOVERNOR", "note"),
        ({"no_turbo": False}, "W-TURBO", "note"),
        ({"charging": True, "battery_pct": 80}, "W-CHARGING", "note"),
        ({"throttle": {"pi_now": 4, "pi_since_boot": 4}}, "W-THROTTLE", "warning"),
        ({"cgroup_nr_throttled": 3, "at_end": {"cgroup_nr_throttled": 9}}, "W-NOISY-CPU", "warning"),
        (
            {
                "clock": {"realtime_s": 1e9, "monotonic_s": 5.0},
                "at_end": {"clock": {"realtime_s": 1e9 + 3660, "monotonic_s": 65.0}},
            },
            "W-CLOCK",
            "note",
        ),
    ],
)
def test_each_condition_of_the_device_has_its_warning(facts: dict[str, Any], code: str, severity: str) -> None:
    """What the device says of itself brings the warning that names it, once, for the whole campaign."""
    found = _warned(facts=facts)
    assert set(found) == {code}
    assert (found[code].severity, found[code].engine) == (severity, None)


@pytest.mark.parametrize(
    ("engine", "code", "severity"),
    [
        ({"options": {"providers": ["CUDAExecutionProvider"]}}, "W-FALLBACK", "warning"),
        (
            {
                "options": {"providers": ["CPUExecutionProvider"]},
                "placement": {"CPUExecutionProvider": 9, "XnnpackExecutionProvider": 2},
            },
            "W-FALLBACK",
            "warning",
        ),
        ({"placed_on_device": {"warnings": ["1 of 2 do not run on the NPU"]}}, "W-ENGINE", "warning"),
        ({"subnormal_weights": 7, "options": {"denormal_as_zero": True}}, "W-SUBNORMAL", "note"),
        ({"subnormal_weights": 7, "options": {}}, "W-SUBNORMAL", "warning"),
    ],
)
def test_each_condition_of_the_engine_has_its_warning(engine: dict[str, Any], code: str, severity: str) -> None:
    """Providers that did not start, nodes and compute elsewhere, and subnormal constants are named."""
    found = _warned(engine=engine)
    assert set(found) == {code}
    assert (found[code].severity, found[code].engine) == (severity, "fp32")


def test_campaign_facts_have_warnings_too() -> None:
    """Continued campaigns and random inputs are named."""
    assert set(_warned(resumed_blocks=3)) == {"W-RESUMED"}
    assert set(_warned(inputs_source="random")) == {"W-RANDOM-INPUT"}


def test_engines_timed_on_different_samples_are_named() -> None:
    """Two bundles with golden samples of their own are compared, and it is said that the samples differ."""
    engine = {"options": {"threads": 1, "providers": ["CPUExecutionProvider"]}}
    runs = {name: [_row(i) for i in range(7)] for name in ("fp32", "int8")}
    facts = CampaignFacts(
        mode="default", quiet=True, noise_ratio=0.0, noise_known=False, sentinel_reference=REFERENCE,
        scenario_kind="latency", resumed_blocks=0, stop="interval", target_half_width=0.01, min_blocks=3,
        verdicts=True, aa=None,
    )  # fmt: skip

    def warned(digest: str) -> list[tuple[str, str]]:
        engines = {"fp32": {**engine, "inputs_sha256": "aa"}, "int8": {**engine, "inputs_sha256": digest}}
        return [(found.code, found.evidence) for found in campaign_warnings(runs, engines, {"cores": 2}, facts)]

    assert warned("aa") == []
    assert warned("bb") == [("W-OTHER-INPUT", "fp32: aa, int8: bb")]


def test_blocks_on_a_warm_device_are_named() -> None:
    """A block that began too warm is counted, with the warmest and by how much."""
    found = _warned([_row(i, **({"warmer_by_c": 3.0 + i} if i > 4 else {})) for i in range(7)])
    assert set(found) == {"W-WARM"}
    assert found["W-WARM"].evidence == "2 of 7 blocks; block 6 by 9.0 degrees C"


def test_a_shared_gpu_matters_only_to_engines_that_use_it() -> None:
    """Other processes on the GPU are a warning for CUDA and TensorRT, and nothing to a CPU engine."""
    facts = {"gpu": [{"compute_processes": 0}], "at_end": {"gpu": [{"compute_processes": 2}]}}
    rows = _all(providers=["CUDAExecutionProvider"])
    assert set(_warned(rows, facts=facts, engine=GPU_ENGINE)) == {"W-GPU-SHARED"}
    assert _warned(facts=facts) == {}


def test_waiting_is_told_from_throttling() -> None:
    """Slow in CPU time is throttled, slow by the wall clock only is contention; a virtual CPU cannot tell."""
    slow, waited = (_all(sentinel={"before": None, "after": item}) for item in (SLOW, WAITED))
    assert set(_warned(slow)) == {"W-THROTTLE"}
    assert set(_warned(waited)) == {"W-NOISY-CPU"}
    assert set(_warned(slow, facts={"virtualised": True})) == {"W-NOISY-CPU", "W-VIRTUAL"}
    assert _warned(slow, sentinel_reference=None) == {}


def test_free_clocks_matter_more_where_inferences_scatter() -> None:
    """Governor and turbo inform; where single inferences scatter by more than 2.5 % they are warnings."""
    facts = {"governor": "schedutil", "no_turbo": False}
    assert {caution.severity for caution in _warned(facts=facts).values()} == {"note"}
    assert {caution.severity for caution in _warned(_all(iqr_ns=50_000), facts=facts).values()} == {"warning"}


def test_scenarios_are_not_blamed_for_what_they_are() -> None:
    """A paced engine idles, several threads share the time, one sustained run is one block: no warning for that."""
    assert _warned(_all(scenario="paced", cpu_ns=10_000_000, loop_wall_ns=6_600_000_000), scenario_kind="paced") == {}
    assert _warned(_all(cpu_ns=100_000_000), engine={"options": {"threads": 4}}) == {}
    long = [_row(0, scenario="sustained", n=2000, raw=[1_000_000] * 2000, loop_wall_ns=10**9 * 2, cpu_ns=10**9 * 2,
                 samples_sum_ns=10**9 * 2)]  # fmt: skip
    assert _warned(long, scenario_kind="sustained") == {}


def test_a_cold_start_has_no_loop_to_warn_of() -> None:
    """Cold rows have one sample; nothing that is said of loops is said of them."""
    assert _warned(_all(scenario="cold", n=1, raw=[7], psi_after=90.0), scenario_kind="cold") == {}


def test_noise_alone_seldom_warns() -> None:
    """Ordinary scatter of 2 % within and 0.2 % between processes brings no warning in 20 simulated campaigns."""
    rng = np.random.default_rng(5)
    for _ in range(20):
        rows = []
        for block in range(7):
            raw = 1e6 * (1 + 0.002 * rng.normal()) * np.exp(rng.normal(0, 0.02, 200))
            quarter, median, upper = np.percentile(raw, [25, 50, 75])
            mad = np.median(np.abs(raw - median))
            rows.append(
                _row(block, raw=raw.tolist(), median_ns=int(median), iqr_ns=int(upper - quarter), mad_ns=int(mad))
            )
        assert _warned(rows) == {}


def test_the_page_for_users_lists_every_code() -> None:
    """docs/measurement.md names exactly the codes that measuring can raise, each with what to do."""
    raised = {
        code
        for folder in ("pipeline/benchmarking", "targets")
        for path in (ROOT / folder).rglob("*.py")
        for code in CODE.findall(path.read_text(encoding="utf-8"))
    }
    rows = [line.split("|") for line in (ROOT / "docs/measurement.md").read_text(encoding="utf-8").split("\n")]
    listed = {cells[1].strip(" `"): cells for cells in rows if len(cells) == 5 and cells[1].startswith(" `W-")}
    assert set(listed) == raised
    assert all(cells[2].strip() and cells[3].strip() for cells in listed.values())
