"""Temperatures in degrees Celsius, and whether one is near the point where the kernel shuts the machine down."""

from __future__ import annotations

from .kernelfiles import Tree

_ZONES = "/sys/class/thermal"
_HWMON = "/sys/class/hwmon"
_CPU_CHIPS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "scpi_sensors"})
_CONSTANT = frozenset({"PMIC-Die", "PMIC-die"})  # Jetson: always 100 degrees, no measurement
_NEAR_C = 5.0


def temperature_paths(tree: Tree) -> list[str]:
    """Files that hold a believable temperature now: thermal zones, and the CPU's own sensors."""
    zones = [f"{_ZONES}/{name}" for name in tree.names(_ZONES) if name.startswith("thermal_zone")]
    paths = [f"{zone}/temp" for zone in zones if tree.text(f"{zone}/type") not in _CONSTANT]
    for chip in tree.names(_HWMON):
        if tree.text(f"{_HWMON}/{chip}/name") in _CPU_CHIPS:
            found = [name for name in tree.names(f"{_HWMON}/{chip}") if name.startswith("temp")]
            paths += [f"{_HWMON}/{chip}/{name}" for name in found if name.endswith("_input")]
    return [path for path in paths if celsius(tree, path) is not None]


def celsius(tree: Tree, path: str) -> float | None:
    """A temperature file in degrees; None unless it is between -40 and 150 (millidegrees, as the kernel promises)."""
    milli = tree.number(path)
    return milli / 1000 if milli is not None and -40_000 <= milli <= 150_000 and abs(milli) >= 1000 else None  # noqa: PLR2004


def hottest(tree: Tree, paths: list[str]) -> float | None:
    """The highest of these temperatures."""
    found = (celsius(tree, path) for path in paths)
    return max((value for value in found if value is not None), default=None)


def critical(tree: Tree) -> bool | None:
    """Whether a zone is within 5 degrees of its critical trip point; None where no zone has one."""
    answers = []
    for name in tree.names(_ZONES):
        zone = f"{_ZONES}/{name}"
        now = celsius(tree, f"{zone}/temp") if name.startswith("thermal_zone") else None
        if now is None or tree.text(f"{zone}/type") in _CONSTANT:
            continue
        for trip in tree.names(zone):
            if trip.endswith("_type") and tree.text(f"{zone}/{trip}") == "critical":
                limit = celsius(tree, f"{zone}/{trip[:-5]}_temp")
                answers += [] if limit is None else [now >= limit - _NEAR_C]
    return any(answers) if answers else None
