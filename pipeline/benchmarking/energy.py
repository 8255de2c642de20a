"""Energy on the host: asks a device for it, checks the answer, and says how far its joules can be trusted."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any, Final

from targets.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.benchmarking.campaign import Entrant
    from targets.devices.base import Device

GRADES: Final = {
    "A": "external meter",
    "B": "sensor of the whole board",
    "C": "counter of a part of the machine",
    "D": "battery gauge",
    "E": "no energy sensor",
}
_UPDATES: Final = 100
_COOLING_S: Final = 60.0
_SPARE_S: Final = 60.0
_FIGURES: Final = ("avg_w", "idle_w", "idle_before_w", "idle_after_w", "hz")
_WINDOW: Final = ("wall_ns", "n", "gross_mj", "net_mj", "avg_w", "updates")
_FIX: Final = "copy the program to the device again by running the same command again"


def measure_energy(
    entrant: Entrant,
    device: Device,
    *,
    windows: int = 5,
    window_s: float = 10.0,
    idle_s: float = 10.0,
    period_ms: float | None = None,
    affinity: str = "default",
) -> dict[str, Any]:
    """The ``energy`` object of one engine, measured on a device that is used by nobody else meanwhile.

    Args:
        entrant: The engine and its samples.
        device: Where to measure.
        windows: Loaded windows.
        window_s: Length of each.
        idle_s: Length of the idle stretches before and after.
        period_ms: One inference every so often; None: back to back.
        affinity: CPUs to use, as in a campaign.

    Returns:
        As `energy_object`.

    Raises:
        DeviceError: The device, its runtime or its sensor failed, or its answer is not valid.
    """
    lengths = ["--windows", str(windows), "--window-s", str(window_s), "--idle-s", str(idle_s)]
    pace = [] if period_ms is None else ["--period-ms", str(period_ms)]
    limit_s = 2 * idle_s + windows * (window_s + _COOLING_S) + _SPARE_S
    with device.session() as session:
        session.put(entrant.folder, "engine")
        session.put(entrant.samples, "samples.npz")
        command = ["energy", "engine", "--samples", "samples.npz", *lengths, *pace, "--affinity", affinity]
        answer = session.run([*command, "--limit-s", str(limit_s)], timeout_s=limit_s + _SPARE_S)
    return energy_object(answer.result, entrant.name)


def energy_object(answer: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """What stands under ``energy`` in benchmark.json, made of a device's answer.

    Args:
        answer: The result of the device program's ``energy``.
        engine: The engine's name, for the warnings.

    Returns:
        ``grade``, ``sensor``, ``gross_mj`` and ``net_mj`` an inference (median, min, max), ``avg_w``, ``idle_w``,
        ``windows``, ``hz``, ``latency``, ``period_ns``, ``warnings``; of grade E no figure at all but ``reason``.

    Raises:
        DeviceError: The answer is not valid.
    """
    grade = answer.get("grade")
    if grade == "E":
        found = {"grade": "E", "sensor": None, "reason": str(answer.get("reason") or GRADES["E"])}
        return {**found, "warnings": energy_warnings(answer, engine)}
    if grade not in GRADES:
        raise _invalid(f"its energy grade is {grade!r}")
    rows = _windows(answer)
    figures = {key: _figure(answer, key) for key in _FIGURES}
    sensor = answer.get("sensor")
    if not isinstance(sensor, dict) or not isinstance(sensor.get("name"), str):
        raise _invalid("it names no sensor")
    return {
        "grade": grade,
        "grade_means": GRADES[grade],
        "sensor": sensor["name"],
        "gross_mj": _spread(rows, "gross_mj"),
        "net_mj": _spread(rows, "net_mj"),
        **figures,
        "windows": rows,
        "period_ns": answer.get("period_ns"),
        "allow_spinning": answer.get("allow_spinning"),
        "latency": answer.get("latency"),
        "telemetry": answer.get("telemetry"),
        "warnings": energy_warnings(answer, engine),
    }


def energy_warnings(answer: Mapping[str, Any], engine: str) -> list[dict[str, Any]]:
    """W-NO-SENSOR, W-CHARGING and W-ENERGY-COARSE where they hold.

    Args:
        answer: The result of the device program's ``energy``, of any grade.
        engine: The engine's name.
    """
    found = [_better_sensor(answer, engine)]
    plugged = bool(answer.get("ac_power") or answer.get("charging"))
    kinds = {str(item.get("name", "")).partition(" ")[0] for item in answer.get("unreadable") or []}
    sensor = answer.get("sensor") or {}
    if plugged and (sensor.get("kind") == "battery" or (answer.get("grade") == "E" and "battery" in kinds)):
        found.append(_warning(
            "W-CHARGING", "warning", engine, "plugged in: the battery gauge does not show what the device draws",
            "mains or USB power is connected", "unplug it (adb: connect over Wi-Fi), then measure again",
        ))  # fmt: skip
    fewest = min((row.get("updates", 0) for row in answer.get("windows") or []), default=_UPDATES)
    if fewest < _UPDATES:
        found.append(_warning(
            "W-ENERGY-COARSE", "warning", engine, "the sensor was renewed too seldom in a window",
            f"{fewest} new readings in the poorest window, {_UPDATES} are the rule",
            "measure with longer windows",
        ))  # fmt: skip
    return [item for item in found if item is not None]


def _better_sensor(answer: Mapping[str, Any], engine: str) -> dict[str, Any] | None:
    """No sensor at all, or one that is there and may not be read; the fix is the exact command."""
    closed = [item for item in answer.get("unreadable") or [] if isinstance(item, dict)]
    fix = "; ".join(str(item.get("fix")) for item in closed)
    evidence = "; ".join(f"{item.get('name')}: {item.get('why')}" for item in closed)
    if answer.get("grade") == "E":
        return _warning(
            "W-NO-SENSOR", "warning", engine, "no energy sensor: nothing is said about energy",
            evidence or str(answer.get("reason") or "none found"), fix or "use an external meter",
        )  # fmt: skip
    if closed:
        return _warning("W-NO-SENSOR", "note", engine, "another energy sensor could not be used", evidence, fix)
    return None


def _warning(code: str, severity: str, engine: str, text: str, evidence: str, fix: str) -> dict[str, Any]:
    return {"code": code, "severity": severity, "engine": engine, "text": text, "evidence": evidence, "fix": fix}


def _windows(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = answer.get("windows")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _invalid("it holds no window")
    for row in rows:
        for key in _WINDOW:
            _figure(row, key)
        if row["n"] < 1 or row["wall_ns"] < 1:
            raise _invalid("a window holds no inference")
    return rows


def _spread(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    values = [float(row[key]) for row in rows]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _figure(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _invalid(f"{key} is {value!r}")
    return float(value)


def _invalid(why: str) -> DeviceError:
    return DeviceError("the device's answer about energy is not valid", why, _FIX)
