"""The energy object and its warnings, from device answers good, poor and hostile."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipeline.benchmarking.energy import energy_object, energy_warnings
from targets.errors import DeviceError


def answer(**changes: object) -> dict[str, Any]:
    """A good answer of a RAPL machine."""
    rows = [
{
            "wall_ns": 10**10, "n": 1000, "late_n": 0, "gross_mj": mj, "net_mj": mj - 50, "avg_w": 10.0 + i,
            "updates": 450, "waited_s": 0.0, "start_c": 50.0,
        }
        for i, mj in enumerate((100.0, 130.0, 110.0, 90.0, 105.0))
    ]  # fmt: skip
    return {
        "grade": "C", "sensor": {"kind": "rapl", "name": "RAPL package-0", "grade": "C"}, "windows": rows,
        "avg_w": 12.0, "idle_w": 5.0, "idle_before_w": 5.0, "idle_after_w": 5.0, "hz": 45.0, "unreadable": [],
        "ac_power": False, "period_ns": None, "allow_spinning": False, "latency": {"median_ns": 10}, **changes,
    }  # fmt: skip


CLOSED = [
    {
        "name": "RAPL package-0",
        "why": "only root may read /sys/class/powercap/intel-rapl:0/energy_uj",
        "fix": "sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj",
    }
]


def codes(given: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["code"], item["severity"]) for item in energy_warnings(given, "int8")]


def test_joules_are_the_median_of_the_windows_with_both_ends() -> None:
    """The host computes median, lowest and highest from the windows itself, and names sensor and grade."""
    found = energy_object(answer(gross_mj={"median": 1}, net_mj=None), "int8")
    assert found["gross_mj"] == {"median": 105.0, "min": 90.0, "max": 130.0}
    assert found["net_mj"] == {"median": 55.0, "min": 40.0, "max": 80.0}
    assert (found["grade"], found["sensor"], found["warnings"]) == ("C", "RAPL package-0", [])


def test_no_sensor_never_becomes_a_number() -> None:
    """Grade E keeps no figure, even if the answer brought some, and warns with the exact command that would help."""
    found = energy_object({**answer(), "grade": "E", "reason": "no energy sensor", "unreadable": CLOSED}, "int8")
    assert set(found) == {"grade", "sensor", "reason", "warnings"}
    (warning,) = found["warnings"]
    assert (warning["code"], warning["severity"], warning["engine"]) == ("W-NO-SENSOR", "warning", "int8")
    assert warning["fix"] == "sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj"
    assert energy_warnings({"grade": "E"}, "int8")[0]["fix"] == "use an external meter"


def test_a_better_sensor_that_was_closed_is_mentioned() -> None:
    """Measured by a lesser sensor while another may not be read: a note with its fix."""
    assert codes(answer(unreadable=CLOSED)) == [("W-NO-SENSOR", "note")]


@pytest.mark.parametrize(("updates", "expected"), [(99, [("W-ENERGY-COARSE", "warning")]), (100, [])])
def test_a_window_needs_a_hundred_new_readings(updates: int, expected: list[tuple[str, str]]) -> None:
    """The poorest window decides; the line is at 100."""
    given = answer()
    given["windows"][2]["updates"] = updates
    assert codes(given) == expected


def test_charging_is_warned_where_it_spoils_the_sensor() -> None:
    """A battery's gauge on USB is warned about; RAPL on mains is not."""
    battery = [{"name": "battery BAT0", "why": "it is not discharging", "fix": "unplug"}]
    plugged = {"grade": "E", "charging": True, "unreadable": battery}
    assert codes(plugged) == [("W-NO-SENSOR", "warning"), ("W-CHARGING", "warning")]
    assert codes(answer(ac_power=True)) == []
    by_battery = answer(ac_power=True, grade="D", sensor={"kind": "battery", "name": "battery BAT0", "grade": "D"})
    assert codes(by_battery) == [("W-CHARGING", "warning")]


@pytest.mark.parametrize(
    "change",
    [
        {"grade": "A+"}, {"grade": None}, {"windows": []}, {"windows": None}, {"windows": [1]}, {"sensor": None},
        {"sensor": {"name": 5}}, {"avg_w": float("inf")}, {"idle_w": None}, {"hz": True},
    ],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    """Unknown grades, missing windows and figures that are no finite numbers end in a device error."""
    with pytest.raises(DeviceError, match="energy is not valid"):
        energy_object(answer(**change), "int8")


@pytest.mark.parametrize("key", ["wall_ns", "n", "gross_mj", "net_mj", "avg_w", "updates"])
@pytest.mark.parametrize("value", [None, "7", float("nan")])
def test_a_window_that_makes_no_sense_is_refused(key: str, value: object) -> None:
    """Every figure of every window is checked."""
    given = copy.deepcopy(answer())
    given["windows"][4][key] = value
    with pytest.raises(DeviceError, match="energy is not valid"):
        energy_object(given, "int8")


def test_a_window_without_inferences_is_refused() -> None:
    """Energy per inference of no inference is no number."""
    given = answer()
    given["windows"][0]["n"] = 0
    with pytest.raises(DeviceError, match="energy is not valid"):
        energy_object(given, "int8")
