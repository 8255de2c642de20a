"""From the runs of a campaign to its results: latency, tail, memory, comparisons, warnings, quality."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from pipeline.benchmarking.statistics import LICENCE, Comparison, Interval, compare, holm, log_interval, percentile
from pipeline.benchmarking.warnings import Caution, device_warnings, engine_warnings
from targets.errors import InputError

METHOD: Final = "t-log-process-medians"
_GRADES: Final = (("A", 0.01), ("B", 0.03), ("C", 0.10))
_MIN_BLOCKS: Final = 3
_MIRROR: Final = {
    "faster": "slower",
    "faster by little": "slower by little",
    "slower": "faster",
    "slower by little": "faster by little",
}
_MEMORY: Final = ("base_rss", "load_peak", "run_peak", "steady_pss", "steady_uss")

Runs = Sequence[Mapping[str, Any]]


def precise_enough(runs: Runs, names: Sequence[str], target_ratio: float) -> bool:
    """Whether every engine's 95 % interval has reached the half-width."""
    return all(
        _interval([run for run in runs if run["engine"] == name], "median_ns").half_width_ratio <= target_ratio
        for name in names
    )


def analyse(
    runs: Mapping[str, Runs],
    engines: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    *,
    noise_ratio: float,
    quiet: bool,
) -> dict[str, Any]:
    """``results``, ``comparison``, ``noise``, ``quality`` and ``warnings`` of benchmark.json.

    Args:
        runs: The rows of complete blocks of each engine, ``raw`` included, in block order.
        engines: What each engine is (``options``, ``subnormal_weights``).
        facts: What the device says of itself.
        noise_ratio: A/A difference, when known.
        quiet: Whether the device was quiet at the start.
    """
    blocks = min(len(rows) for rows in runs.values())
    n_distinct = min(run["n_distinct"] for rows in runs.values() for run in rows)
    cautions = device_warnings(facts, blocks=blocks, n_distinct=n_distinct)
    for name, rows in runs.items():
        cautions += engine_warnings(
            name,
            _with_stable_outputs(rows),
            threads=int(engines[name]["options"]["threads"]),
            subnormal=int(engines[name]["subnormal_weights"]),
        )
    void = {caution.engine for caution in cautions if caution.severity == "void"}
    comparisons = _comparisons({name: rows for name, rows in runs.items() if name not in void}, noise_ratio)
    return {
        "results": {name: engine_result(rows) for name, rows in runs.items()},
        "comparison": [_comparison_json(comparison) for comparison in comparisons],
        "noise": {"aa_ratio": noise_ratio or None},
        "quality": _quality(runs, cautions, blocks=blocks, quiet=quiet),
        "warnings": [caution.to_json() for caution in cautions],
    }


def engine_result(runs: Runs) -> dict[str, Any]:
    """Latency with its interval, tail, throughput, load, first inference and memory of one engine."""
    pooled = [sample / run["inner_loops"] / 1e6 for run in runs for sample in run["raw"]]
    rho = statistics.fmean(run["rho1"] for run in runs)
    tail = {name: asdict(percentile(name, pooled, rho)) for name in LICENCE}
    for name, key in (("p90", "p90_ns"), ("p99", "p99_ns")):
        values = [run[key] / 1e6 for run in runs]
        tail[name]["process_range"] = [min(values), max(values)]
    calls = sum(run["n"] * run["inner_loops"] for run in runs)
    wall_s = sum(run["loop_wall_ns"] for run in runs) / 1e9
    return {
        "latency_ms": {**_interval_json(_interval(runs, "median_ns")), "method": METHOD},
        "best_ms": min(run["min_ns"] for run in runs) / 1e6,
        "mean_ms": sum(run["samples_sum_ns"] for run in runs) / calls / 1e6,
        "cpu_ms": sum(run["cpu_ns"] for run in runs) / calls / 1e6,
        "tail_ms": tail,
        "of_batches": any(run["of_batches"] for run in runs),
        "throughput": {"ips": calls / wall_s, "wall_s": wall_s},
        "load_ms": _interval_json(_interval(runs, "load_ns")),
        "first_ms": _interval_json(_interval(runs, "first_ns")),
        "memory": {key: _memory(runs, key) for key in _MEMORY},
        "outputs_ok": _outputs_ok(runs),
        "n": len(pooled),
    }


def find_comparison(campaign: Mapping[str, Any], a: str, b: str) -> dict[str, Any]:
    """What the campaign says of ``a`` against ``b``, whichever way round it was stored.

    Raises:
        InputError: The two were not compared.
    """
    for item in campaign["comparison"]:
        if (item["a"], item["b"]) == (a, b):
            return dict(item)
        if (item["a"], item["b"]) == (b, a):
            ci = item["ci95"]
            return {
                **item,
                "a": a,
                "b": b,
                "ratio": 1 / item["ratio"],
                "ci95": None if ci is None else [1 / ci[1], 1 / ci[0]],
                "verdict": _MIRROR.get(item["verdict"], item["verdict"]),
            }
    raise InputError(
        f"{a!r} and {b!r} were not compared",
        "the campaign lacks one of them, or its outputs were wrong",
        "measure both in one campaign",
    )


def _comparisons(runs: Mapping[str, Runs], noise_ratio: float) -> list[Comparison]:
    found = []
    for b, a in itertools.combinations(runs, 2):
        medians = [{run["block"]: float(run["median_ns"]) for run in runs[name]} for name in (a, b)]
        shared = sorted(set(medians[0]) & set(medians[1]))
        found.append(compare(a, b, [(medians[0][i], medians[1][i]) for i in shared], noise_ratio=noise_ratio))
    return holm(found)


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    few = comparison.blocks < _MIN_BLOCKS
    return {
        "a": comparison.a,
        "b": comparison.b,
        "metric": comparison.metric,
        "ratio": comparison.ratio,
        "ci95": None if comparison.low is None else [comparison.low, comparison.high],
        "delta": comparison.delta_ratio,
        "verdict": "not shown" if few else comparison.verdict,
        "blocks": comparison.blocks,
        "blocks_needed": _MIN_BLOCKS if few else comparison.blocks_needed,
        "p_holm": comparison.p,
    }


def _interval(runs: Runs, key: str) -> Interval:
    """The interval in milliseconds of a value in nanoseconds."""
    return log_interval([max(1, run[key]) / 1e6 for run in runs])


def _interval_json(interval: Interval) -> dict[str, Any]:
    ci = None if interval.low is None else [interval.low, interval.high]
    return {"value": interval.value, "ci95": ci, "k": interval.k}


def _memory(runs: Runs, key: str) -> dict[str, int] | None:
    values = [run["mem"][key] for run in runs if run["mem"][key] is not None]
    return {"median_bytes": int(statistics.median(values)), "max_bytes": max(values)} if values else None


def _outputs_ok(runs: Runs) -> bool | None:
    answers = [run["outputs_ok"] for run in _with_stable_outputs(runs)]
    return False if False in answers else (True if True in answers else None)


def _with_stable_outputs(runs: Runs) -> list[Mapping[str, Any]]:
    """The runs, where a process whose outputs differ from those of the first with as many samples counts as wrong."""
    seen: dict[int, str] = {}
    checked = []
    for run in runs:
        covered = min(run["n"] * run["inner_loops"], run["n_distinct"])
        same = seen.setdefault(covered, run["outputs_sha256"]) == run["outputs_sha256"]
        checked.append(run if same else {**run, "outputs_ok": False})
    return checked


def _quality(runs: Mapping[str, Runs], cautions: Sequence[Caution], *, blocks: int, quiet: bool) -> dict[str, Any]:
    widest = max(_interval(rows, "median_ns").half_width_ratio for rows in runs.values())
    reasons = sorted({f"{c.code}: {c.text}" for c in cautions if c.severity != "note"})
    if not quiet:
        reasons.append("the device was not quiet at the start")
    if blocks < _MIN_BLOCKS:
        reasons.append(f"the budget allowed {blocks} blocks only, no verdict is given below {_MIN_BLOCKS}")
    grade = next((name for name, limit in _GRADES if widest <= limit), "C")
    if math.isfinite(widest) and widest > _GRADES[0][1]:
        reasons.append(f"the widest 95 % interval is +-{math.expm1(widest):.1%}, the goal is +-{_GRADES[0][1]:.0%}")
    if grade == "A" and (reasons or any(c.code == "W-VIRTUAL" for c in cautions)):
        grade = "B"
    if any(caution.severity == "void" for caution in cautions):
        grade = "F"
    return {"grade": grade, "half_width_ratio": widest if math.isfinite(widest) else None, "reasons": reasons}
