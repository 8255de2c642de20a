"""Sensors of energy and power: which there are, how good they are, what they read now (microjoules, microwatts)."""

from __future__ import annotations

from typing import NamedTuple

from . import nvml
from .kernelfiles import Tree
from .supply import read_supply

_POWERCAP = "/sys/class/powercap"
_HWMON = "/sys/class/hwmon"
_INA_OLD = "/sys/bus/i2c/drivers/ina3221x"
_TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")  # what the whole board draws, in Jetson's names
_NOT_RAILS = ("NC", "")


class Sensor(NamedTuple):
    """One source of energy figures.

    Attributes:
        kind: ``rapl``, ``nvml`` (energy counters), ``ina`` or ``battery`` (power, to be integrated).
        name: What it counts, for people.
        grade: B board rail, C part of the machine, D battery gauge.
        counter: Whether it counts energy (microjoules) or shows power (microwatts).
        parts: Files; one group a part, whose product in SI units is the part's figure. Empty for NVML.
        wraps: Where each part's counter starts again, microjoules; 0 never.
        gpus: The GPUs, for NVML.
    """

    kind: str
    name: str
    grade: str
    counter: bool
    parts: tuple[tuple[str, ...], ...] = ()
    wraps: tuple[int, ...] = ()
    gpus: tuple[nvml.Gpu, ...] = ()


class Unreadable(NamedTuple):
    """A sensor that is there and cannot be used, and what would make it usable."""

    name: str
    why: str
    fix: str


def find_sensors(tree: Tree, gpus: list[nvml.Gpu]) -> tuple[list[Sensor], list[Unreadable]]:
    """All sensors that can be read now, the best first, and those that exist but cannot."""
    good: list[Sensor] = []
    bad: list[Unreadable] = []
    for find in (_rails, _rails_old, _rapl, _battery):
        for item in find(tree):
            if isinstance(item, Unreadable):
                bad.append(item)
            else:
                good.append(item)
    counting = tuple(gpu for gpu in gpus if nvml.energy_uj(gpu) is not None)
    if counting:
        name = "NVML energy of GPU {}".format("+".join(str(gpu.number) for gpu in counting))
        good.append(Sensor("nvml", name, "C", counter=True, wraps=(0,) * len(counting), gpus=counting))
    return sorted((item for item in good if read(tree, item) is not None), key=lambda item: item.grade), bad


def read(tree: Tree, sensor: Sensor) -> tuple[int, ...] | None:
    """The figure of each part now: microjoules of a counter, else microwatts; None if any cannot be read."""
    if sensor.kind == "nvml":
        found = [nvml.energy_uj(gpu) for gpu in sensor.gpus]
    else:
        found = [_part(tree, sensor.kind, group) for group in sensor.parts]
    known = tuple(value for value in found if value is not None)
    return known if found and len(known) == len(found) else None


def _part(tree: Tree, kind: str, group: tuple[str, ...]) -> int | None:
    values = [tree.number(path) for path in group]
    if any(value is None for value in values):
        return None
    first, second = (values[0] or 0), (values[1] or 0) if len(values) > 1 else None
    if kind == "ina":
        return first * 1000 if second is None else first * second  # mW, or mV x mA, is microwatts
    if kind == "battery":
        return abs(first) if second is None else abs(first) * abs(second) // 1_000_000  # uW, or uA x uV
    return first


def _rails(tree: Tree) -> list[Sensor | Unreadable]:
    """INA3221 chips as hwmon devices: ``in*_label``, ``in*_input`` [mV] and ``curr*_input`` [mA]."""
    rails: dict[str, tuple[str, ...]] = {}
    for chip in tree.names(_HWMON):
        folder = f"{_HWMON}/{chip}"
        if tree.text(f"{folder}/name") != "ina3221":
            continue
        for name in tree.names(folder):
            channel = name[2:-6]
            label = tree.text(f"{folder}/{name}") if name.startswith("in") and name.endswith("_label") else None
            if label and "sum of" not in label and tree.exists(f"{folder}/curr{channel}_input"):
                rails[label] = (f"{folder}/in{channel}_input", f"{folder}/curr{channel}_input")
    return _of_rails(tree, rails)


def _rails_old(tree: Tree) -> list[Sensor | Unreadable]:
    """The same chips in JetPack 4: ``rail_name_*`` and ``in_power*_input`` [mW] below the i2c driver."""
    rails: dict[str, tuple[str, ...]] = {}
    for chip in tree.names(_INA_OLD):
        for device in tree.names(f"{_INA_OLD}/{chip}"):
            folder = f"{_INA_OLD}/{chip}/{device}"
            for name in tree.names(folder) if device.startswith("iio:device") else []:
                label = tree.text(f"{folder}/{name}") if name.startswith("rail_name_") else None
                if label:
                    rails[label] = (f"{folder}/in_power{name[10:]}_input",)
    return _of_rails(tree, rails)


def _of_rails(tree: Tree, rails: dict[str, tuple[str, ...]]) -> list[Sensor | Unreadable]:
    """The board's total where a rail carries it (grade B); else the sum of the rails there are (grade C)."""
    wanted = {label: files for label, files in rails.items() if label not in _NOT_RAILS}
    if not wanted:
        return []
    total = [label for label in _TOTAL_RAILS if label in wanted][:1]
    chosen = total or sorted(wanted)
    refused = _refused(
        tree, [path for label in chosen for path in wanted[label]], "INA3221 {}".format("+".join(chosen))
    )
    if refused:
        return [refused]
    parts = tuple(wanted[label] for label in chosen)
    return [Sensor("ina", "INA3221 {}".format("+".join(chosen)), "B" if total else "C", counter=False, parts=parts)]


def _rapl(tree: Tree) -> list[Sensor | Unreadable]:
    """Intel's and AMD's energy counters: the platform (psys) where there is one, else the sum of the packages."""
    zones = {}
    for name in tree.names(_POWERCAP):
        prefix, _, number = name.partition(":")
        label = tree.text(f"{_POWERCAP}/{name}/name") if prefix == "intel-rapl" and number.isdigit() else None
        if label:
            zones[label] = f"{_POWERCAP}/{name}"
    chosen = ["psys"] if "psys" in zones else sorted(label for label in zones if label.startswith("package"))
    if not chosen:
        return []
    name = "RAPL {}".format("+".join(chosen))
    refused = _refused(tree, [f"{zones[label]}/energy_uj" for label in chosen], name)
    if refused:
        return [refused]
    ranges = [tree.number(f"{zones[label]}/max_energy_range_uj") for label in chosen]
    if not all(ranges):
        return [Unreadable(name, "the kernel does not say where the counter wraps", "use an external meter")]
    parts = tuple((f"{zones[label]}/energy_uj",) for label in chosen)
    return [Sensor("rapl", name, "C", counter=True, parts=parts, wraps=tuple(value or 0 for value in ranges))]


def _battery(tree: Tree) -> list[Sensor | Unreadable]:
    """The battery's own gauge, which shows what the machine draws only while it discharges."""
    supply = read_supply(tree)
    if supply.battery is None:
        return []
    files = [(f"{supply.battery}/power_now",), (f"{supply.battery}/current_now", f"{supply.battery}/voltage_now")]
    usable = [group for group in files if all(tree.number(path) is not None for path in group)]
    name = "battery {}".format(supply.battery.rpartition("/")[2])
    refused = _refused(tree, [path for group in files for path in group if tree.exists(path)], name)
    if not usable:
        return [refused] if refused else []
    if supply.charging or supply.ac_power or tree.text(f"{supply.battery}/status") != "Discharging":
        return [Unreadable(name, "it is not discharging: its gauge does not show what the device draws",
                           "unplug mains and USB (adb: connect over Wi-Fi), then measure again")]  # fmt: skip
    return [Sensor("battery", name, "D", counter=False, parts=(usable[0],))]


def _refused(tree: Tree, paths: list[str], name: str) -> Unreadable | None:
    """What to do where files exist that this user may not read."""
    closed = [path for path in paths if tree.denied(path)]
    if not closed:
        return None
    return Unreadable(name, f"only root may read {closed[0]}", "sudo chmod a+r {}".format(" ".join(closed)))
