"""Before the first block: faults of the device that forbid measuring, a quiet moment, and the sentinel's speed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from targets.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from targets.devices.base import DeviceFacts, Session

QUIET_WAIT_S: Final = 5.0
_QUIET_SHARE: Final = 8  # of a small budget, waiting takes at most this part
_QUIET_PRESSURE: Final = 5.0
_QUIET_LOAD: Final = 0.3
_POLL_S: Final = 0.5
_LOW_BATTERY: Final = 15
_SENTINEL_TIMEOUT_S: Final = 60.0
_SENTINEL: Final = ("repeats", "wall_ns", "cpu_ns")


def patience_s(budget_s: float) -> float:
    """How long a campaign may wait for a quiet and cool device, all waiting together."""
    return min(QUIET_WAIT_S, budget_s / _QUIET_SHARE)


def quiet_facts(session: Session, budget_s: float) -> tuple[DeviceFacts, bool, float]:
    """The device's facts once nothing else uses its CPU, or after 5 s (less of a small budget).

    Returns:
        The facts, whether nothing else used the CPU, and how long that took in seconds.

    Raises:
        DeviceError: It must not be measured now: its battery is nearly empty, or it is critically hot.
        DeviceLost: It does not answer.
    """
    begin = time.monotonic()
    while True:
        facts = session.facts()
        _refuse_hard_faults(facts.raw)
        quiet = _is_quiet(facts)
        waited_s = time.monotonic() - begin
        if quiet or waited_s + _POLL_S + facts.wall_s > patience_s(budget_s):
            return facts, quiet, round(waited_s, 3)
        time.sleep(_POLL_S)


def calibrate_sentinel(session: Session) -> dict[str, int]:
    """How fast the device does a fixed piece of work now: ``repeats``, ``wall_ns`` and ``cpu_ns`` of a pass.

    Raises:
        DeviceError: It gives no such figures.
    """
    answer = session.run(["sentinel"], timeout_s=_SENTINEL_TIMEOUT_S).result
    found = {key: answer.get(key) for key in _SENTINEL}
    if not all(isinstance(value, int) and value > 0 for key, value in found.items() if key != "cpu_ns"):
        raise DeviceError(
            "the device gave no valid answer", f"sentinel: {str(found)[:200]}", "update the device's software"
        )
    return {key: int(value or 0) for key, value in found.items()}


def _is_quiet(facts: DeviceFacts) -> bool:
    pressure, load = facts.raw.get("psi_cpu_some_avg10"), facts.raw.get("loadavg_1min")
    if pressure is not None:
        return bool(pressure < _QUIET_PRESSURE)
    return load is not None and bool(load < _QUIET_LOAD * (facts.cores or 1))


def _refuse_hard_faults(facts: Mapping[str, Any]) -> None:
    battery = facts.get("battery_pct")
    if battery is not None and battery < _LOW_BATTERY:
        raise DeviceError(
            "the device's battery is nearly empty",
            f"{battery:g} %, and devices slow down below {_LOW_BATTERY} %",
            "charge it, unplug it, and measure again",
        )
    if facts.get("thermal_critical"):
        temperature = facts.get("temp_c")
        raise DeviceError(
            "the device is critically hot",
            "it reports a critical temperature" + ("" if temperature is None else f" ({temperature:g} degrees C)"),
            "let it cool down, or cool it better, and measure again",
        )
