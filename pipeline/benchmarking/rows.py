"""A row of ``runs``: what a device answers to `measure`, checked before anything computes with it, and its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.steadiness import classify
from targets.errors import DeviceError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_SAMPLES: Final = 200_000
_LONGEST_NS: Final = 1 << 62
_FIX: Final = "check that the device is sound and runs the program that was sent to it, then measure again"


def _time(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LONGEST_NS


def _count(value: object) -> bool:
    return _time(value) and value != 0


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _or_null(check: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or check(value)


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _samples(value: object) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _MAX_SAMPLES and all(map(_count, value))


_MEMORY: Final = ("base_rss", "load_peak", "run_peak", "steady_pss", "steady_uss")
_FIELDS: Final[Mapping[str, Callable[[object], bool]]] = {
    **dict.fromkeys(("n", "inner_loops", "loop_wall_ns", "n_distinct"), _count),
    **dict.fromkeys(
        (
            "median_ns", "p90_ns", "p95_ns", "p99_ns", "min_ns", "max_ns", "mean_ns", "mad_ns", "iqr_ns",
            "samples_sum_ns", "cpu_ns", "load_ns", "first_ns", "warmup_n",
        ),
        _time,
    ),
    **dict.fromkeys(("invol_ctx", "steal_ticks", "minor_faults", "major_faults", "swap_bytes"), _or_null(_number)),
    **dict.fromkeys(("psi_before", "psi_after"), _or_null(_number)),
    "rho1": _number,
    "of_batches": _flag,
    "outliers": _object,
    "mem": _object,
    "outputs_sha256": _text,
    "outputs_ok": _or_null(_flag),
    "raw": _samples,
    "sentinel": _or_null(_object),
    "telemetry": _or_null(_object),
    "scenario_result": _or_null(_object),
}  # fmt: skip
_OPTIONAL: Final = frozenset({
    "steal_ticks", "minor_faults", "major_faults", "swap_bytes", "sentinel", "telemetry", "scenario_result",
})  # fmt: skip


def checked_row(result: Mapping[str, Any], engine_sha256: str) -> dict[str, Any]:
    """The answer to `measure` with ``class``, ``segments`` and ``steady_from``.

    Raises:
        DeviceError: A field is missing, or is not what it must be.
        RefusedError: It is the answer for another engine.
    """
    wrong = sorted(key for key, check in _FIELDS.items() if not _right(result, key, check))
    if not wrong:
        wrong = sorted(f"mem.{key}" for key in _MEMORY if not _or_null(_time)(result["mem"].get(key, "")))
    if wrong:
        raise DeviceError("the device gave no valid answer", f"measure: {', '.join(wrong)} missing or wrong", _FIX)
    if result.get("engine_sha256", engine_sha256) != engine_sha256:
        raise RefusedError(
            "the device measured another engine",
            f"asked for {engine_sha256}, it says {str(result['engine_sha256'])[:64]!r}",
            _FIX,
        )
    inner = result["inner_loops"]
    found = classify([sample / inner for sample in result["raw"]])
    segments = [[start, end, round(level)] for start, end, level in found.segments]
    return {**result, "class": found.kind, "segments": segments, "steady_from": found.steady_from}


def slowest_pass_ns(rows: tuple[Mapping[str, Any], ...]) -> int | None:
    """The slower of a block's sentinel passes, in nanoseconds; None where it had none."""
    passes = [
        item["wall_ns"]
        for row in rows
        for item in (row.get("sentinel") or {}).values()
        if isinstance(item, dict) and _count(item.get("wall_ns"))
    ]
    return max(passes, default=None)


def _right(result: Mapping[str, Any], key: str, check: Callable[[object], bool]) -> bool:
    return (key in _OPTIONAL and key not in result) or (key in result and check(result[key]))
