"""The power supply: mains or battery, charging or not, and the power mode that the board is set to."""

from __future__ import annotations

from typing import NamedTuple

from .kernelfiles import Tree, integer
from .programs import output_of

_SUPPLY = "/sys/class/power_supply"


class Supply(NamedTuple):
    """What the kernel says of mains and battery; None where it does not.

    Attributes:
        ac_power: Whether mains or USB power is connected.
        battery_pct: Charge of the machine's own battery, percent.
        charging: Whether that battery is being charged.
        battery: Its folder.
    """

    ac_power: bool | None
    battery_pct: int | None
    charging: bool | None
    battery: str | None


def read_supply(tree: Tree) -> Supply:
    """Reads /sys/class/power_supply; batteries of mice and other peripherals (scope ``Device``) do not count."""
    lines: list[bool] = []
    battery = None
    for name in tree.names(_SUPPLY):
        folder = f"{_SUPPLY}/{name}"
        kind = tree.text(f"{folder}/type") or ""
        if kind == "Battery":
            own = tree.text(f"{folder}/scope") != "Device" and tree.flag(f"{folder}/present") is not False
            battery = battery or (folder if own else None)
        elif kind == "Mains" or kind.startswith("USB") or kind == "Wireless":
            connected = tree.number(f"{folder}/online")
            lines += [] if connected is None else [connected > 0]
    if battery is None:
        return Supply(any(lines) if lines else None, None, None, None)
    status = tree.text(f"{battery}/status")
    charging = None if status in {None, "", "Unknown"} else status == "Charging"
    capacity = tree.number(f"{battery}/capacity")
    percent = capacity if capacity is not None and 0 <= capacity <= 100 else None  # noqa: PLR2004 - percent
    return Supply(any(lines) if lines else None, percent, charging, battery)


def power_mode(tree: Tree) -> str | None:
    """The mode that limits power: Jetson's nvpmodel, else the firmware's platform profile."""
    answer = output_of(tree, "nvpmodel", "-q")
    for line in (answer or "").split("\n"):
        label, _, value = line.partition(":")
        if label.strip() == "NV Power Mode" and value.strip():
            return value.strip()
    stored = tree.text("/var/lib/nvpmodel/status")
    if stored and stored.startswith("pmode:") and integer(stored[6:].lstrip("0") or "0") is not None:
        return "nvpmodel {}".format(stored[6:].lstrip("0") or "0")
    return tree.text("/sys/firmware/acpi/platform_profile") or None
