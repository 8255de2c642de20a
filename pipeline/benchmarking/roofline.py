"""How close each node comes to what the device can do: operations and bytes from shapes, against measured peaks.

The model (S. Williams, A. Waterman, D. Patterson, "Roofline", CACM 52(4), 2009) with one term more for starting a node:
a node takes at least ``max(operations / peak, bytes / bandwidth) + dispatch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.work import Weight, Work, weight_of, work_of

if TYPE_CHECKING:
    from pipeline.benchmarking.peaks import Calibration

SUSPICIOUS_PCT: Final = 105.0
SUSPICIOUS_TEXT: Final = (
    "more than the calibration found possible: the model of the machine is wrong here (a faster algorithm such as "
    "Winograd, a higher clock, fused or skipped operators)"
)
LOSSES: Final = 5
_NEAREST: Final = {
    "conv3x3": ("conv3x3", "conv1x1", "matmul"),
    "conv1x1": ("conv1x1", "conv3x3", "matmul"),
    "depthwise": ("depthwise",),
    "matmul": ("matmul", "conv1x1"),
}
_LOSS_KEYS: Final = ("name", "module", "op", "bound", "loss_ms")


def peak_of(kind: str, peaks: Mapping[str, float]) -> float | None:
    """Operations a second for a kind; where it was not measured, of the nearest kind with the same types."""
    return next((peaks[other] for other in nearest_kinds(kind) if other in peaks), None)


def nearest_kinds(kind: str) -> list[str]:
    """The kind itself, then those of the same types whose peak may stand for it, the nearest first."""
    shape, _, pair = kind.partition(".")
    return [f"{name}.{pair}" for name in _NEAREST[shape]]


def kinds_of(profile: Mapping[str, Any], weights: Mapping[str, Weight]) -> frozenset[str]:
    """Whose peaks an engine's nodes are held against.

    Args:
        profile: The device program's answer to ``layers``.
        weights: Of the engine file's nodes.
    """
    works = (work_of(row, weight_of(row, weights)) for row in profile["nodes"])
    return frozenset(work.kind for work in works if work.kind is not None)


def bandwidth_of(size_bytes: int, calibration: Calibration) -> float:
    """Bytes a second for data of that size in all; a nearer cache counts at least as fast as what lies behind it."""
    levels = ["l2", "llc", "memory"]
    caches = calibration.caches
    first = 0 if size_bytes <= caches["l2"] else 1 if size_bytes <= caches["llc"] else 2
    return max(calibration.bandwidth[level] for level in levels[first:])


def without_profiler(medians_ns: Sequence[float], wall_ns: float) -> tuple[list[float], float]:
    """Times of nodes without what the profiler adds to each, and that addition, in nanoseconds.

    The profiler costs every node about the same. Where the nodes' times add up to more than the same inference takes
    without profiler, that cost is the one number whose removal (never below zero) makes them add up to it.
    """
    if sum(medians_ns) <= wall_ns:
        return [float(value) for value in medians_ns], 0.0
    ordered = sorted(medians_ns, reverse=True)
    cost, total = 0.0, 0.0
    for count, value in enumerate(ordered, 1):
        total += value
        cost = (total - wall_ns) / count
        following = ordered[count] if count < len(ordered) else 0.0
        if cost >= following:
            break
    return [max(0.0, value - cost) for value in medians_ns], max(0.0, cost)


def roofline(
    profile: Mapping[str, Any],
    weights: Mapping[str, Weight],
    modules: Mapping[str, str | None],
    calibration: Calibration,
) -> dict[str, Any]:
    """Every node against what the device can do.

    Args:
        profile: The device program's answer to ``layers``.
        weights: Of the engine file's nodes.
        modules: Profiled node to module path, None where it is not known.
        calibration: Of the same device, runtime version and number of threads.

    Returns:
        ``layers`` in the order of execution (times in ns; ``own_ns`` is the time without the profiler, ``pct`` the
        attainable share of it, ``bound`` one of ``compute``, ``memory``, ``overhead``), ``losses`` (the five nodes that
        lose most, in ms), ``pct`` of the whole, and what to know about them.
    """
    rows = profile["nodes"]
    works = [work_of(row, weight_of(row, weights)) for row in rows]
    own, cost = without_profiler([float(row["median_ns"]) for row in rows], float(profile["wall_median_ns"]))
    all_weights = sum(work.weight_bytes for work in works)
    layers = [
        _layer(row, work, time_ns, modules.get(str(row["name"])), all_weights, calibration)
        for row, work, time_ns in zip(rows, works, own, strict=True)
    ]
    wall = float(profile["wall_median_ns"])
    attainable = sum(layer["attainable_ns"] for layer in layers)
    pct = round(100 * attainable / wall, 2)
    losing = sorted((layer for layer in layers if layer["loss_ms"] > 0), key=lambda layer: -layer["loss_ms"])
    return {
        "calibration_id": calibration.id,
        "calibration_noisy": calibration.noisy,
        "quality": "noisy" if calibration.noisy else "good",
        "pct": pct,
        "explanation": SUSPICIOUS_TEXT if pct > SUSPICIOUS_PCT else None,
        "bound_by": _bound_by(layers),
        "attainable_ns": round(attainable),
        "wall_ns": round(wall),
        "nodes_sum_ns": round(sum(float(row["median_ns"]) for row in rows)),
        "profiled_wall_ns": round(float(profile["profiled_wall_median_ns"])),
        "profiler_ns_per_node": round(cost),
        "outside_ns": round(max(0.0, wall - sum(own))),
        "layers": layers,
        "losses": [{key: layer[key] for key in _LOSS_KEYS} for layer in losing[:LOSSES]],
    }


def _layer(
    row: Mapping[str, Any],
    work: Work,
    own_ns: float,
    module: str | None,
    all_weights: int,
    calibration: Calibration,
) -> dict[str, Any]:
    peak = peak_of(work.kind, calibration.peaks) if work.kind is not None else None
    compute = work.operations / peak * 1e9 if peak is not None else 0.0
    memory = 1e9 * (
        work.weight_bytes / bandwidth_of(all_weights, calibration)
        + work.activation_bytes / bandwidth_of(work.activation_bytes, calibration)
    )
    attainable = max(compute, memory) + calibration.dispatch_ns
    pct = round(100 * attainable / own_ns, 2) if own_ns > 0 else None
    return {
        "name": row["name"],
        "module": module,
        "op": row["op"],
        "provider": row["provider"],
        "kind": work.kind,
        "peak_known": work.kind is None or peak is not None,
        "operations": work.operations,
        "bytes": work.weight_bytes + work.activation_bytes,
        "outputs": row["outputs"],
        "median_ns": row["median_ns"],
        "own_ns": round(own_ns),
        "share_ratio": row["share_ratio"],
        "compute_ns": round(compute),
        "memory_ns": round(memory),
        "attainable_ns": round(attainable),
        "bound": _bound(compute, memory, calibration.dispatch_ns),
        "pct": pct,
        "loss_ms": round((own_ns - attainable) / 1e6, 6),
    }


def _bound(compute: float, memory: float, overhead: float) -> str:
    """What its least possible time mostly consists of."""
    if overhead >= max(compute, memory):
        return "overhead"
    return "compute" if compute >= memory else "memory"


def _bound_by(layers: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of the attainable time in nodes of each bound."""
    total = sum(layer["attainable_ns"] for layer in layers)
    return {
        bound: round(sum(x["attainable_ns"] for x in layers if x["bound"] == bound) / total, 4) if total else 0.0
        for bound in ("compute", "memory", "overhead")
    }
