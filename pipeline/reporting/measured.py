"""The part of ``run.json`` that a campaign fills: figures of a candidate, its samples over time, the conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.reporting import text
from pipeline.reporting.verdicts import device_text, grade_of, noise_text

Campaign = Mapping[str, Any]
Raw = Sequence[Mapping[str, Any]]
QUANTILES: Final = 200
TIMELINE_POINTS: Final = 1500


def measured_part(name: str, campaign: Campaign, raw: Raw, reference: str) -> dict[str, Any]:
    """What a campaign adds to a candidate of the report."""
    result = campaign["results"][name]
    memory = result["memory"]
    grade, reasons = grade_of(campaign, name)
    tail = result["tail_ms"] or {}
    scored = campaign.get("accuracy_on_device", {}).get(name)
    return {
        "latency_ms": {key: result["latency_ms"][key] for key in ("value", "ci95", "k")},
        **{f"{p}_ms": tail[p]["value"] if p in tail else None for p in ("p90", "p99")},
        **{f"{p}_note": tail_note(tail.get(p)) for p in ("p90", "p99")},
        "throughput_ips": (result.get("throughput") or {}).get("ips"),
        "load_ms": result["load_ms"]["value"],
        "first_ms": result["first_ms"]["value"],
        "peak_memory_bytes": _bytes(memory, "run_peak"),
        "load_peak_bytes": _bytes(memory, "load_peak"),
        "unique_memory_bytes": _bytes(memory, "steady_uss"),
        "accuracy_device": scored["value"] if scored else None,
        "quality": grade,
        "quality_reasons": reasons,
        "block_medians_ms": [run["median_ns"] / 1e6 for run in counted(campaign, name)],
        "quantiles_ms": _quantiles(name, raw),
        "vs_reference": None if name == reference else _comparison(name, campaign, reference),
    }


def counted(campaign: Campaign, name: str) -> list[Mapping[str, Any]]:
    """The runs of an engine that its results rest on: complete blocks, nothing that was repeated."""
    blocks = campaign["campaign"]["blocks"]
    return [
        run for run in campaign["runs"] if run["engine"] == name and run["block"] < blocks and not run.get("discarded")
    ]


def tail_note(found: Mapping[str, Any] | None) -> str:
    """What a percentile rests on, or why there is none: ``n = 700, at most 0.74 ms``, ``need 662, have 300``.

    Where processes differ more than the bound allows, it is no bound: ``by process 0.69 to 0.92 ms, n = 700``.
    """
    if found is None:
        return ""
    if found["value"] is None:
        return str(found.get("reason") or "")
    count = [f"n = {found['n']}"] if "n" in found else []
    if found.get("show") == "range":
        low, high = found["process_range"]
        return ", ".join([f"{text.BY_PROCESS} {text.number(low)} to {text.number(high)} ms", *count])
    bound = [f"at most {text.milliseconds(found['upper99'])}"] if found.get("upper99") is not None else []
    return ", ".join([*count, *bound])


def timeline(name: str, campaign: Campaign, raw: Raw) -> dict[str, Any] | None:
    """Samples of a candidate in the order they were taken, thinned to what a plot can show; None without samples."""
    rows = {row["block"]: row for row in raw if row["engine"] == name and not row.get("discarded")}
    runs = [run for run in counted(campaign, name) if run["block"] in rows]
    total = sum(len(rows[run["block"]]["raw_ns"]) for run in runs)
    if not total:
        return None
    every = max(1, -(-total // TIMELINE_POINTS))
    processes = []
    for run in runs:
        row = rows[run["block"]]
        samples = [value / row.get("inner_loops", 1) / 1e6 for value in row["raw_ns"][::every]]
        processes.append({"block": run["block"], "ms": [s for s in samples if s > 0], **_telemetry(run)})
    return {"candidate": name, "every": every, "processes": processes}


def _telemetry(run: Mapping[str, Any]) -> dict[str, Any]:
    seen = run.get("telemetry") or {}
    temperature, frequency, throttle = (seen.get(key) or {} for key in ("temp_c", "freq_khz", "throttle"))
    median = frequency.get("median")
    return {
        "temp_c": temperature.get("max"),
        "freq_mhz": None if median is None else median / 1e3,
        "throttled": bool(throttle["events"]) if "events" in throttle else None,
    }


def campaign_conditions(campaign: Campaign) -> dict[str, Any]:
    """Where and how it was measured, by what it is; what a device does not tell is left out."""
    told, device, scenario, quality = (campaign[key] for key in ("campaign", "device", "scenario", "quality"))
    frequency = device.get("freq_khz") or {}
    clocks = [f"{key} {frequency[key] / 1e3:g} MHz" for key in ("min", "max", "cur") if frequency.get(key)]
    known = {
        "measured": told["utc_start"],
        "device": device_text(campaign),
        "reached by": device.get("transport"),
        "CPU": device.get("cpu_model"),
        "usable cores": device.get("usable_cores"),
        "memory": text.size(device["mem_total_bytes"]) if device.get("mem_total_bytes") else None,
        "frequency governor": device.get("governor"),
        "clocks": ", ".join(clocks) or None,
        "turbo": None if device.get("no_turbo") is None else not device["no_turbo"],
        "power mode": device.get("power_mode"),
        "mains power": device.get("ac_power"),
        "battery, percent": device.get("battery_pct"),
        "temperature, degrees C": device.get("temp_c"),
        "virtual machine": device.get("virtualised"),
        "emulated": device.get("emulated"),
        "container": device.get("container"),
        "quiet at the start": told.get("quiet_at_start"),
        "kernel": device.get("kernel"),
        "system": device.get("os"),
        "scenario": scenario.get("kind"),
        "affinity": scenario.get("affinity"),
        "batch": scenario.get("batch"),
        "memory limit, MiB": scenario.get("memory_limit_mb"),
        "mode": told.get("mode"),
        "blocks": told["blocks"],
        "stopped by": told["stop"],
        "campaign seconds": told["wall_s"],
        "noise": noise_text(campaign),
        "quality": quality["grade"],
        "why this grade": "; ".join(quality["reasons"]),
    }
    return {key: value for key, value in known.items() if value not in {None, ""}}


def not_included(campaign: Campaign) -> list[str]:
    """What the latencies are not."""
    engine_only = "the engine alone is timed, inputs and outputs in memory; no end-to-end time was measured"
    lines = [f"reading, decoding, pre- and post-processing: {engine_only}"]
    if campaign["scenario"].get("kind", "latency") == "latency":
        lines.append("the first inference and loading, which stand apart")
        lines.append("several requests at a time, or pauses between them")
    device = campaign["device"]
    if device.get("emulated"):
        lines.append("a speed of this hardware: the CPU is emulated, only the outputs mean anything")
    elif device.get("virtualised"):
        lines.append("the speed of a whole machine: the CPU is virtual, others may share it")
    lines.append("comparable with figures of another report: only what ran side by side in one campaign is")
    return lines


def _bytes(memory: Mapping[str, Any], key: str) -> int | None:
    return memory[key]["max_bytes"] if memory.get(key) else None


def _quantiles(name: str, raw: Raw) -> list[float]:
    """Latency of single inferences at equal steps of their distribution; empty without samples."""
    pooled = sorted(
        value / row.get("inner_loops", 1) / 1e6
        for row in raw
        if row["engine"] == name and not row.get("discarded")
        for value in row["raw_ns"]
        if value > 0
    )
    if not pooled:
        return []
    steps = min(QUANTILES, len(pooled) - 1)
    return [pooled[round(i * (len(pooled) - 1) / steps)] for i in range(steps + 1)] if steps else pooled


def _comparison(name: str, campaign: Campaign, reference: str) -> dict[str, Any] | None:
    """Speed against the reference; None where the campaign did not compare them (a void measurement)."""
    from pipeline.benchmarking.analysis import find_comparison
    from targets.errors import InputError

    try:
        found = find_comparison(campaign, name, reference)
    except InputError:
        return None
    interval = found["ci95"]
    return {
        "reference": reference,
        "ratio": 1 / found["ratio"],
        "ci95": None if interval is None else [1 / interval[1], 1 / interval[0]],
        "verdict": found["verdict"] or "",
    }
