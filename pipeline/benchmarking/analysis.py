"""From the rows of a campaign to what may be said: results, comparisons, noise, quality, warnings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipeline.benchmarking.conditions import CampaignFacts, Run, Runs
from pipeline.benchmarking.quality import quality
from pipeline.benchmarking.results import engine_result, headline_interval, headline_ns, latency_ns
from pipeline.benchmarking.statistics import Comparison, compare, holm
from pipeline.benchmarking.warnings import Caution, campaign_warnings
from targets.errors import InputError

__all__ = ["CampaignFacts", "analyse", "find_comparison", "precise_enough"]

_LATENCY: Final = "latency_ms"
_MIRROR: Final = {
    "faster": "slower",
    "faster by little": "slower by little",
    "slower": "faster",
    "slower by little": "faster by little",
    "lower": "higher",
    "lower by little": "higher by little",
    "higher": "lower",
    "higher by little": "lower by little",
}


def precise_enough(runs: Sequence[Mapping[str, Any]], names: Sequence[str], target_ratio: float) -> bool:
    """Whether every engine's 95 % interval has reached the half-width.

    Args:
        runs: Rows of all engines, those of repeated blocks left out.
        names: The engines that count.
        target_ratio: Half-width as a ratio: 0.01 is 1 %.
    """
    return all(
        headline_interval([run for run in runs if run["engine"] == name]).half_width_ratio <= target_ratio
        for name in names
    )


def analyse(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    engines: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    *,
    campaign: CampaignFacts,
) -> dict[str, Any]:
    """``results``, ``comparison``, ``noise``, ``quality`` and ``warnings`` of benchmark.json.

    An engine with wrong outputs is compared with nothing. Everything else that is void, too few blocks and mode quick
    leave the ratio and take the verdict; ``reason`` says why.

    Args:
        runs: The rows of complete blocks of each engine, ``raw`` included, in block order.
        engines: What each engine is (``options``, ``placement``, ``subnormal_weights``).
        facts: What the device says of itself; ``at_end``: after the last block.
        campaign: How the campaign went.

    Raises:
        ValueError: An engine has no row.
    """
    kept = {name: [run for run in rows if not run.get("discarded")] for name, rows in runs.items()}
    if not kept or not all(kept.values()):
        raise ValueError("every engine needs at least one row that counts")
    cautions = campaign_warnings(kept, engines, facts, campaign)
    grades = quality(kept, cautions, campaign)
    results = {name: {**engine_result(rows), "quality": grades["engines"][name]} for name, rows in kept.items()}
    sound = {name: rows for name, rows in kept.items() if results[name]["outputs_ok"] is not False}
    noise_ratio = campaign.noise_ratio if campaign.noise_known else 0.0
    return {
        "results": results,
        "comparison": [
            _comparison_json(comparison, _withheld(comparison, cautions, campaign))
            for comparison in _comparisons(sound, results, noise_ratio)
        ],
        "noise": {
            "known": campaign.noise_known,
            "floor_pct": 100 * noise_ratio if campaign.noise_known else None,
            "aa_ratio_ci": list(campaign.aa["ci95"]) if campaign.aa and campaign.aa.get("ci95") else None,
            "aa": dict(campaign.aa) if campaign.aa else None,
        },
        "quality": grades,
        "warnings": [caution.to_json() for caution in cautions],
    }


def find_comparison(campaign: Mapping[str, Any], a: str, b: str, metric: str = _LATENCY) -> dict[str, Any]:
    """What the campaign says of ``a`` against ``b``, whichever way round it was stored.

    Args:
        campaign: The content of benchmark.json.
        a: The engine judged.
        b: What it is compared with.
        metric: ``latency_ms``, ``p90_ms``, ``p99_ms``, ``ms_per_inference`` or ``run_peak_bytes``.

    Raises:
        InputError: The two were not compared.
    """
    for item in campaign["comparison"]:
        if item.get("metric", _LATENCY) != metric:
            continue
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
        f"{a!r} and {b!r} were not compared" + ("" if metric == _LATENCY else f" by {metric}"),
        "the campaign lacks one of them, or its outputs were wrong",
        "measure both in one campaign",
    )


def _comparisons(runs: Mapping[str, Runs], results: Mapping[str, Any], noise_ratio: float) -> list[Comparison]:
    """All pairs by every metric that both have, paired by block; corrected for their number within each metric."""
    found = []
    for metric, value, of_time in _metrics(runs, results):
        pairs = []
        for b, a in itertools.combinations(runs, 2):
            values = [{run["block"]: value(run) for run in runs[name]} for name in (a, b)]
            shared = [(values[0][i], values[1].get(i)) for i in sorted(values[0])]
            both = [(x, y) for x, y in shared if x is not None and y is not None and x > 0 and y > 0]
            if both:
                pairs.append(compare(a, b, both, metric=metric, noise_ratio=noise_ratio if of_time else 0.0))
        found += holm(pairs)
    return found


def _metrics(
    runs: Mapping[str, Runs], results: Mapping[str, Any]
) -> list[tuple[str, Callable[[Run], float | None], bool]]:
    """Name, value of a row, and whether it is a time, of what can be compared."""
    found: list[tuple[str, Callable[[Run], float | None], bool]] = [(_LATENCY, latency_ns, True)]
    tails = [results[engine]["tail_ms"] or {} for engine in runs]
    licensed = [name for name in ("p90", "p99") if all(tail.get(name, {}).get("value") is not None for tail in tails)]
    found += [(f"{name}_ms", _field(f"{name}_ns"), True) for name in licensed]
    if any(run.get("scenario") == "throughput" for rows in runs.values() for run in rows):
        found.append(("ms_per_inference", headline_ns, True))
    found.append(("run_peak_bytes", _field("mem", "run_peak"), False))
    return found


def _field(*keys: str) -> Callable[[Run], float | None]:
    def value(run: Run) -> float | None:
        at: Any = run
        for key in keys:
            at = (at or {}).get(key)
        return None if at is None else float(at)

    return value


def _withheld(comparison: Comparison, cautions: Sequence[Caution], campaign: CampaignFacts) -> str | None:
    """Why no verdict is given, whatever the interval says."""
    if not campaign.verdicts:
        return "screening only"
    if comparison.blocks < campaign.min_blocks:
        return f"below {campaign.min_blocks} blocks nothing is claimed"
    if campaign.stop == "lost":
        return "the device was lost"
    void = [c for c in cautions if c.severity == "void" and c.engine in {None, comparison.a, comparison.b}]
    return f"{void[0].code}: {void[0].text}" if void else None


def _comparison_json(comparison: Comparison, withheld: str | None) -> dict[str, Any]:
    few = withheld is not None and withheld.startswith("below")
    return {
        "a": comparison.a,
        "b": comparison.b,
        "metric": comparison.metric,
        "ratio": comparison.ratio,
        "ci95": None if comparison.low is None else [comparison.low, comparison.high],
        "delta": comparison.delta_ratio,
        "verdict": comparison.verdict if withheld is None else "not shown",
        "reason": withheld,
        "blocks": comparison.blocks,
        "blocks_needed": max(comparison.blocks + 1, comparison.blocks_needed or 0) if few else comparison.blocks_needed,
        "p_holm": comparison.p,
    }
