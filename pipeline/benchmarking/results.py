"""What the runs of one engine say: latency with its interval, tail, throughput, load, first inference, memory."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import numpy as np

from pipeline.benchmarking.conditions import Run, Runs
from pipeline.benchmarking.statistics import LICENCE, Interval, log_interval, percentile

METHOD: Final = "t-log-process-medians"
_MEMORY: Final = ("base_rss", "load_peak", "run_peak", "steady_pss", "steady_uss")
_PROCESS_TAIL: Final = (("p90", "p90_ns"), ("p95", "p95_ns"), ("p99", "p99_ns"))
_BACK_TO_BACK: Final = frozenset({"latency", "sustained"})


def headline_ns(run: Run) -> float:
    """The one number of a process, in nanoseconds; smaller is better.

    Load and first inference for ``cold``, wall time per inference for ``throughput``, else the median.
    """
    kind, found = run.get("scenario") or "latency", run.get("scenario_result") or {}
    if kind == "throughput" and found.get("inferences"):
        return max(1e-3, float(found["wall_ns"]) / float(found["inferences"]))
    return latency_ns(run)


def latency_ns(run: Run) -> float:
    """The latency of a process in nanoseconds: load and first inference for ``cold``, else the median."""
    if run.get("scenario") == "cold":
        return max(1.0, float(run["load_ns"]) + float(run["first_ns"]))
    return max(1.0, float(run["median_ns"]))


def headline_interval(runs: Runs) -> Interval:
    """The interval of `headline_ns` over processes, in milliseconds."""
    return log_interval([headline_ns(run) / 1e6 for run in runs])


def engine_result(runs: Runs) -> dict[str, Any]:
    """``results.<engine>`` of benchmark.json; times in milliseconds, sizes in bytes.

    Load, first inference and steady latency are three numbers and stay apart; so do the wall time of the loop, the CPU
    time and the sum of samples, whose differences show stalls.
    """
    steady = [run for run in runs if run.get("scenario") != "cold"]
    return {
        "latency_ms": {**interval_json(log_interval([latency_ns(run) / 1e6 for run in runs])), "method": METHOD},
        "load_ms": _interval_of(runs, "load_ns"),
        "first_ms": _interval_of(runs, "first_ns"),
        "memory": {key: _memory(runs, key) for key in _MEMORY},
        "memory_peaks_split": all((run.get("mem") or {}).get("peaks_split") is not False for run in runs),
        "outputs_ok": outputs_ok(runs),
        "scenario": scenario_result(runs),
        **_loop(steady),
    }


def _loop(runs: Runs) -> dict[str, Any]:
    """What only a timed loop gives; all None without one."""
    if not runs:
        none = ("best_ms", "mean_ms", "mean_over_median", "cpu_ms", "tail_ms", "throughput", "times_s", "outliers")
        return {**dict.fromkeys(none), "of_batches": False, "steadiness": {}, "n": 0}
    calls = sum(_calls(run) for run in runs)
    times = {key: sum(run[f"{key}_ns"] for run in runs) / 1e9 for key in ("loop_wall", "samples_sum", "cpu")}
    mean_ms = times["samples_sum"] / calls * 1e3
    median_ms = statistics.median(latency_ns(run) for run in runs) / 1e6
    return {
        "best_ms": min(run["min_ns"] for run in runs) / 1e6,
        "mean_ms": mean_ms,
        "mean_over_median": mean_ms / median_ms,
        "cpu_ms": times["cpu"] / calls * 1e3,
        "times_s": times,
        "tail_ms": tail_ms(runs),
        "of_batches": any(run["of_batches"] for run in runs),
        "throughput": _throughput(runs, calls, times["loop_wall"]),
        "outliers": {key: sum(run["outliers"][key] for run in runs) for key in ("mild", "severe")},
        "steadiness": dict(collections.Counter(run["class"] for run in runs if run.get("class"))),
        "n": sum(run["n"] for run in runs),
    }


def tail_ms(runs: Runs) -> dict[str, Any]:
    """Percentiles of single inferences, pooled over the steady part of all processes, with 99 % upper bounds.

    ``process_range`` is the smallest and largest percentile of single processes; where it reaches beyond the bound,
    the processes differ, the bound does not hold for all of them, and ``show`` says ``range``: print only that.
    """
    pooled = np.concatenate([steady_samples_ms(run) for run in runs])
    rho = statistics.fmean(run.get("rho1") or 0.0 for run in runs)
    found = {name: {**asdict(percentile(name, pooled, rho)), "rho1": rho} for name in LICENCE}
    for name, key in _PROCESS_TAIL:
        values = [run[key] / 1e6 for run in runs]
        bound = found[name]["upper99"]
        found[name]["process_range"] = [min(values), max(values)]
        found[name]["show"] = None if bound is None else ("range" if max(values) > bound else "bound")
    return found


def steady_samples_ms(run: Run) -> np.ndarray:
    """Samples of one process in milliseconds per call, without what came before it settled; shape (n,)."""
    settled = run.get("class") in {"warmup", "slowdown"}
    raw = run["raw"][(run.get("steady_from") or 0) if settled else 0 :]
    samples: np.ndarray = np.asarray(raw, dtype=np.float64) / (run["inner_loops"] * 1e6)
    return samples


def scenario_result(runs: Runs) -> dict[str, Any] | None:
    """What is particular to the scenario, over all processes; None for ``latency``."""
    kind = runs[0].get("scenario") or "latency"
    rows = [run.get("scenario_result") or {} for run in runs]
    if kind == "cold":
        caches = {row.get("page_cache") or "warm" for row in rows}
        total = interval_json(log_interval([latency_ns(run) / 1e6 for run in runs]))
        return {"kind": kind, "cold_ms": total, "page_cache": caches.pop() if len(caches) == 1 else "mixed"}
    if kind == "paced":
        late, n = sum(row.get("late_n") or 0 for row in rows), sum(run["n"] for run in runs)
        return {"kind": kind, "period_ns": rows[0].get("period_ns"), "late_n": late, "late_ratio": late / max(1, n),
                "latency_from_schedule": True}  # fmt: skip
    if kind == "throughput":
        return {"kind": kind, "batch": rows[0].get("batch"), "concurrency": rows[0].get("concurrency")}
    if kind == "sustained":
        return _sustained(rows)
    return None


def _sustained(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first, last = (
        [row[key] / 1e6 for row in rows if row.get(key)] for key in ("first_minute_median_ns", "last_minute_median_ns")
    )
    throttled = [row["throttled_after_s"] for row in rows if row.get("throttled_after_s") is not None]
    known = bool(first and last)
    return {
        "kind": "sustained",
        "first_minute_ms": statistics.median(first) if known else None,
        "last_minute_ms": statistics.median(last) if known else None,
        "last_over_first": statistics.median(last) / statistics.median(first) if known else None,
        "throttled_after_s": min(throttled, default=None),
    }


def _throughput(runs: Runs, calls: int, wall_s: float) -> dict[str, Any] | None:
    """Inferences by wall time: N / T, never 1 / median. None where the pace is not the engine's."""
    kind = runs[0].get("scenario") or "latency"
    if kind == "throughput":
        rows = [row for run in runs if (row := run.get("scenario_result")) and row.get("inferences")]
        if not rows:
            return None
        per_second = log_interval([float(row["inferences"]) * 1e9 / row["wall_ns"] for row in rows])
        total, wall_s = sum(row["inferences"] for row in rows), sum(row["wall_ns"] for row in rows) / 1e9
        ci95 = interval_json(per_second)["ci95"]
        return {"ips": total / wall_s, "ci95": ci95, "wall_s": wall_s, "inferences": total}
    if kind not in _BACK_TO_BACK:
        return None
    return {"ips": calls / wall_s, "ci95": None, "wall_s": wall_s, "inferences": calls}


def _calls(run: Run) -> int:
    """Calls behind ``samples_sum_ns``; a sustained run keeps only some of its samples."""
    if run.get("scenario") == "sustained" and (run.get("scenario_result") or {}).get("inferences"):
        return int(run["scenario_result"]["inferences"])
    return int(run["n"]) * int(run["inner_loops"])


def _interval_of(runs: Runs, key: str) -> dict[str, Any]:
    """The interval in milliseconds of a value in nanoseconds."""
    return interval_json(log_interval([max(1, run[key]) / 1e6 for run in runs]))


def interval_json(interval: Interval) -> dict[str, Any]:
    """An interval as plain data."""
    ci = None if interval.low is None else [interval.low, interval.high]
    return {"value": interval.value, "ci95": ci, "k": interval.k}


def _memory(runs: Runs, key: str) -> dict[str, int] | None:
    values = [value for run in runs if (value := (run.get("mem") or {}).get(key)) is not None]
    return {"median_bytes": int(statistics.median(values)), "max_bytes": max(values)} if values else None


def outputs_ok(runs: Runs) -> bool | None:
    """False when outputs of a process are wrong or differ from another's; None when there was nothing to compare."""
    answers = [run.get("outputs_ok") for run in with_stable_outputs(runs)]
    return False if False in answers else (True if True in answers else None)


def with_stable_outputs(runs: Runs) -> list[Mapping[str, Any]]:
    """The runs, where a process whose outputs differ from those of the first with as many samples counts as wrong."""
    seen: dict[int, str] = {}
    checked = []
    for run in runs:
        covered = min(int(run.get("n") or 0) * int(run.get("inner_loops") or 1), int(run.get("n_distinct") or 0))
        digest = run.get("outputs_sha256")
        same = digest is None or seen.setdefault(covered, digest) == digest
        checked.append(run if same else {**run, "outputs_ok": False})
    return checked
